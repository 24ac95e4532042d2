//! The format against files of the reference implementation, and against every way of being damaged.

use std::io::BufReader;

use proptest::prelude::*;

use super::*;
use crate::secret::SystemRandom;

/// Made by age-keygen 1.1.1.
const KEY: &str = "# created: 2026-11-24T16:44:26Z\n\
    # public key: age17sxl87p0mhn8ckv5nay6pwgczpu9385zjjuravwmpeat29j5wyfq06m4dd\n\
    AGE-SECRET-KEY-1FEZKUM7VT0H3N7P4HU904YTM92H88F3ZS5YGXLAADULHJSAWHJMQH7QDNY\n";
const PUBLIC: &str = "age17sxl87p0mhn8ckv5nay6pwgczpu9385zjjuravwmpeat29j5wyfq06m4dd";
/// Made by age 1.1.1 for that key.
const GOLDEN: &str = "YWdlLWVuY3J5cHRpb24ub3JnL3YxCi0+IFgyNTUxOSA5bXBwWGNlOWxGVkMydDVxZEdTVllEbmhhR0t3cjMxYnlMb1kvVVBWUG5v\
    CktqUGdWUWEvVU5qY0ZRbm9oQVRNWlNVam0yclRYNm5TRjZ0L1pmQVVFeHcKLS0tIFhnVll0eTBwaWdsR2xHa0lnMHhINGVSeXVF\
    c2Ntd3IyWkZjL2FrNjdXY0EKz38v15f7mh+OSixT89QLHx8gFB59flBZjXvbUHYBG77SPa9hFQXjgUcsYbdqj271mSP53sTxANMe\
    bELsx8w=";

fn seal(plain: &[u8], recipient: &Recipient) -> Vec<u8> {
    let mut writer = Writer::new(recipient, &mut SystemRandom, Vec::new()).unwrap();
    writer.write_all(plain).unwrap();
    writer.finish().unwrap()
}

fn open(sealed: &[u8], identity: &Identity) -> Result<Vec<u8>, Error> {
    // A small buffer, so that heads and chunks lie across its edges.
    let mut plain = Vec::new();
    let mut reader = Reader::new(identity, BufReader::with_capacity(37, sealed))?;
    reader.read_to_end(&mut plain)?;
    Ok(plain)
}

#[test]
fn a_file_of_the_reference_implementation_opens() {
    let identity = Identity::in_file(KEY).unwrap();
    assert_eq!(identity.recipient().to_string(), PUBLIC);
    assert_eq!(identity.expose().as_str(), KEY.lines().last().unwrap());
    let golden = base64::engine::general_purpose::STANDARD
        .decode(GOLDEN)
        .unwrap();
    let plain = open(&golden, &identity).unwrap();
    assert_eq!(plain, b"golden hepto snapshot payload\n");
}

#[test]
fn every_length_around_a_chunk_comes_back() {
    let identity = Identity::generate(&mut SystemRandom);
    for length in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 5] {
        let plain: Vec<u8> = (0..length).map(|index| (index % 251) as u8).collect();
        let sealed = seal(&plain, &identity.recipient());
        assert_eq!(open(&sealed, &identity).unwrap(), plain, "{length}");
    }
}

#[test]
fn every_changed_byte_and_every_cut_is_noticed() {
    let identity = Identity::generate(&mut SystemRandom);
    let sealed = seal(b"a short secret", &identity.recipient());
    for place in 0..sealed.len() {
        let mut changed = sealed.clone();
        changed[place] ^= 1;
        assert!(open(&changed, &identity).is_err(), "byte {place}");
        assert!(open(&sealed[..place], &identity).is_err(), "cut at {place}");
    }
    let longer = [sealed.as_slice(), b"x"].concat();
    assert!(matches!(open(&longer, &identity), Err(Error::Damaged)));
}

#[test]
fn a_file_cut_between_two_chunks_is_noticed() {
    let identity = Identity::generate(&mut SystemRandom);
    let sealed = seal(&vec![7; 2 * CHUNK], &identity.recipient());
    let cut = sealed.len() - (CHUNK + TAG);
    assert!(matches!(
        open(&sealed[..cut], &identity),
        Err(Error::Damaged)
    ));
}

#[test]
fn another_key_opens_nothing_and_is_told_so() {
    let (mine, other) = (
        Identity::generate(&mut SystemRandom),
        Identity::generate(&mut SystemRandom),
    );
    let sealed = seal(b"mine", &mine.recipient());
    assert!(matches!(open(&sealed, &other), Err(Error::OtherKey)));
    assert!(matches!(
        open(b"PK\x03\x04 a zip\n", &mine),
        Err(Error::Format)
    ));
    assert!(matches!(open(b"", &mine), Err(Error::Format)));
}

#[test]
fn keys_are_read_as_they_are_written_and_nothing_else_is() {
    let identity = Identity::generate(&mut SystemRandom);
    let again = Identity::in_file(&identity.expose()).unwrap();
    assert_eq!(again.recipient(), identity.recipient());
    let public = identity.recipient().to_string();
    assert_eq!(public.parse::<Recipient>().unwrap(), identity.recipient());
    let slip = public.replacen(
        &public[10..11],
        if &public[10..11] == "q" { "p" } else { "q" },
        1,
    );
    for wrong in ["", "age1", slip.as_str(), identity.expose().as_str()] {
        assert!(wrong.parse::<Recipient>().is_err(), "{wrong}");
    }
    for wrong in [public.as_str(), "", "# a comment alone"] {
        assert!(Identity::in_file(wrong).is_err(), "{wrong}");
    }
    assert_eq!(format!("{identity:?}"), "Identity(hidden)");
}

proptest! {
    /// Whatever a file holds, opening it ends with a sentence.
    #[test]
    fn no_bytes_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let identity = Identity::in_file(KEY).unwrap();
        let golden = base64::engine::general_purpose::STANDARD.decode(GOLDEN).unwrap();
        prop_assert!(open(&bytes, &identity).is_err());
        let grafted = [&golden[..bytes.len().min(golden.len())], &bytes].concat();
        prop_assert!(open(&grafted, &identity).is_err());
    }
}
