//! A release: from its mirror into the store, each file held to its digest before it can be used.

use std::path::PathBuf;

use super::download::{self, Download};
use super::record::Record;
use super::release::{self, Machine};
use super::store::Locked;
use super::{
    Acquired, Archive, Cancel, Digest, Error, Images, Order, PROGRAM, Release, Stage, Store,
    client, keep, note,
};

/// No k3s is longer, bytes: those of 2025 have 80 MB.
const LONGEST_PROGRAM: u64 = 512 << 20;
/// No archive of its images is longer, bytes: those of 2025 have 250 MB.
const LONGEST_IMAGES: u64 = 4 << 30;
/// No file of checksums is longer, bytes.
const LONGEST_CHECKSUMS: u64 = 256 << 10;

/// A release that is brought from its mirror, as far as it is not there.
pub(super) struct Fetch<'a> {
    order: &'a Order,
    release: &'a Release,
    machine: Machine,
    cancel: &'a Cancel,
    tell: &'a dyn Fn(Stage),
}

impl<'a> Fetch<'a> {
    /// A fetch for this machine.
    ///
    /// # Errors
    /// [`Error::Machine`] where there is no k3s for it.
    pub fn new(
        order: &'a Order,
        release: &'a Release,
        cancel: &'a Cancel,
        tell: &'a dyn Fn(Stage),
    ) -> Result<Self, Error> {
        let machine = Machine::this().ok_or(Error::Machine)?;
        Ok(Fetch {
            order,
            release,
            machine,
            cancel,
            tell,
        })
    }

    /// The program, and the images if they are wanted.
    ///
    /// # Errors
    /// What stands in the way.
    pub fn release(&self) -> Result<Acquired, Error> {
        let store = Store::of(&self.order.storage);
        // What is there whole needs neither the network nor who downloads another version.
        if let Some(acquired) = self.whole(&store)?
            && keep(self.order, &acquired)?
        {
            return Ok(acquired);
        }
        let locked = store.lock(self.cancel, || (self.tell)(Stage::Waiting))?;
        // Another node may have brought it meanwhile.
        let acquired = match self.whole(&store)? {
            Some(acquired) => acquired,
            None => self.bring(&locked)?,
        };
        note(self.order, &acquired)?;
        let images = acquired.images.as_ref().map(|images| images.digest);
        locked.tidy(
            &[&[acquired.digest][..], images.as_slice()].concat(),
            self.cancel,
        )?;
        Ok(acquired)
    }

    fn wants_images(&self) -> bool {
        self.order.images == Some(Archive::Release)
    }

    /// The files and what is known of their digests before anything is asked.
    fn files(&self) -> [(&'static str, &'static str, Option<Digest>, u64, bool); 2] {
        let Machine {
            program, images, ..
        } = self.machine;
        [
            (program, PROGRAM, self.release.pin, LONGEST_PROGRAM, true),
            (images, images, None, LONGEST_IMAGES, self.wants_images()),
        ]
    }

    /// What is in the store already, read whole.
    fn whole(&self, store: &Store) -> Result<Option<Acquired>, Error> {
        let record = Record::read(&store.folder())?;
        let mut found = Vec::new();
        for (file, name, pin, _, wanted) in self.files() {
            if wanted {
                let held = pin.or_else(|| record.digest(&self.release.version, file));
                let Some(digest) = held else { return Ok(None) };
                let Some(path) = store.verified(&digest, name)? else {
                    return Ok(None);
                };
                found.push((path, digest));
            }
        }
        Ok(Some(self.acquired(found)))
    }

    fn acquired(&self, found: Vec<(PathBuf, Digest)>) -> Acquired {
        let mut found = found.into_iter();
        let (path, digest) = found.next().expect("the program comes first, and always");
        Acquired {
            path,
            digest,
            name: self.release.version.to_string(),
            images: found.next().map(|(path, digest)| Images { path, digest }),
        }
    }

    /// Downloads what is not there.
    fn bring(&self, locked: &Locked) -> Result<Acquired, Error> {
        (self.tell)(Stage::Asking);
        let patience = &self.order.patience;
        let agent = client::agent(self.release.authority.as_deref(), patience)?;
        self.cancel.ends(&agent);
        let tell = |progress| (self.tell)(Stage::Downloading(progress));
        let download = Download {
            agent: &agent,
            patience,
            cancel: self.cancel,
            tell: &tell,
        };
        let mut found = Vec::new();
        for (file, name, pin, most, wanted) in self.files() {
            if !wanted {
                continue;
            }
            let (digest, published) = match pin {
                Some(pin) => (pin, None),
                None => self.published(&download, locked, file)?,
            };
            let path = match locked.store().verified(&digest, name)? {
                Some(path) => path,
                None => self.file(&download, locked, (file, name, most), &digest, published)?,
            };
            found.push((path, digest));
        }
        Ok(self.acquired(found))
    }

    /// The digest that the release publishes for a file, and where; it has to be the one of the first use.
    fn published(
        &self,
        download: &Download<'_>,
        locked: &Locked,
        file: &str,
    ) -> Result<(Digest, Option<String>), Error> {
        let url = self.release.url(self.machine.checksums);
        let recorded = Record::read(&locked.store().folder())?.digest(&self.release.version, file);
        let Some(text) = download.text(&url, LONGEST_CHECKSUMS)? else {
            return Err(Error::Absent { url });
        };
        let file = file.to_owned();
        match (release::checksum(&text, &file), recorded) {
            (None, _) => Err(Error::Checksum { url, file }),
            (Some(published), Some(recorded)) if published != recorded => Err(Error::Changed {
                url,
                file,
                published,
                recorded,
            }),
            (Some(published), _) => Ok((published, Some(url))),
        }
    }

    /// Downloads one file, holds it to its digest, and records that digest before the file can be used.
    fn file(
        &self,
        download: &Download<'_>,
        locked: &Locked,
        (file, name, most): (&str, &str, u64),
        digest: &Digest,
        published: Option<String>,
    ) -> Result<PathBuf, Error> {
        let url = self.release.url(file);
        tracing::info!(url, sha256 = %digest, "downloading {file} of k3s {}", self.release.version);
        let partial = locked.partial(digest)?;
        let mut resumed = download.file(&url, &partial, most)?;
        loop {
            let checked = locked.check(&partial, digest, &url);
            match checked {
                // What was begun earlier may have been something else: once more, whole.
                Err(Error::Digest { .. }) if resumed => {
                    download::discard(&partial)?;
                    resumed = download.file(&url, &partial, most)?;
                }
                Err(error) => {
                    download::discard(&partial)?;
                    return Err(error);
                }
                Ok(()) => break,
            }
        }
        if let Some(from) = published {
            let folder = locked.store().folder();
            let record = Record::read(&folder)?;
            record.hold(&folder, &self.release.version, file, *digest, &from)?;
        }
        let path = locked.put(&partial, digest, name, &url)?;
        download::discard(&partial)?;
        Ok(path)
    }
}
