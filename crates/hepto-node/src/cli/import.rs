//! `hepto-node import-inventory`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use zeroize::Zeroizing;

use crate::config::{self, Report, Source};
use crate::fault::{Exit, Fault};
use crate::inventory::{self, Nodes};
use crate::secret;

/// What `import-inventory` takes.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The guide's Ansible inventory, in INI form
    pub inventory: PathBuf,
    /// Only these nodes, with commas between; the whole inventory is checked all the same
    #[arg(long, short, value_name = "NODE", value_delimiter = ',')]
    pub limit: Vec<String>,
    /// Where to write the config files and keys
    #[arg(long, value_name = "DIR", default_value = "/etc/hepto")]
    pub out: PathBuf,
    /// Where the keys will lie on the nodes, if the files are copied there
    #[arg(long, value_name = "DIR")]
    pub keys_at: Option<PathBuf>,
}

/// Writes one config file per node, and the key files, or says what is wrong with the inventory.
pub fn run(args: ImportArgs) -> anyhow::Result<ExitCode> {
    let text = read(&args.inventory)?;
    let keys_at = match &args.keys_at {
        Some(path) => path.clone(),
        None => std::path::absolute(&args.out)?,
    };
    let (inventory, mut found) = inventory::read(&text);
    let (nodes, more) = inventory::nodes(&inventory, &keys_at);
    found.extend(more);
    found.sort_by_key(|found| found.span.as_ref().map_or(0, |span| span.start));
    let source = Source::new(args.inventory.display().to_string(), &text, &[]);
    let report = Report {
        source,
        diagnostics: found,
    };
    if !report.diagnostics.is_empty() {
        let styled = io::stderr().is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        eprintln!("{}\n\n{report}", report.render(styled));
    }
    let Some(nodes) = nodes.filter(|_| report.errors() == 0) else {
        return Ok(Exit::BadConfig.into());
    };
    let files = files(&nodes, &args)?;
    refuse_others(&files)?;
    let mut output = io::stdout().lock();
    if nodes.named_here {
        writeln!(
            output,
            "the inventory names no cluster: it is called {}",
            nodes.cluster
        )?;
    }
    fs::create_dir_all(&args.out)?;
    for (path, contents) in &files {
        let verb = if path.exists() { "unchanged" } else { "wrote" };
        if !path.exists() {
            write(path, contents)?;
        }
        writeln!(output, "{verb} {}", path.display())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn read(path: &Path) -> anyhow::Result<Zeroizing<String>> {
    let text = fs::read_to_string(path).map_err(|error| {
        let fault = Fault::new(
            "E-INV-READ",
            format!("cannot read the inventory {}: {error}", path.display()),
        );
        fault
            .fix("name a file in INI form, as in the guide")
            .exit(Exit::BadConfig)
    })?;
    Ok(Zeroizing::new(text))
}

enum Contents {
    Config(String),
    Key(Zeroizing<String>),
}

/// What is to be written where: of the keys only those that the nodes need.
fn files(nodes: &Nodes, args: &ImportArgs) -> anyhow::Result<BTreeMap<PathBuf, Contents>> {
    let names: Vec<&str> = nodes.nodes.iter().map(|node| node.name.as_str()).collect();
    if let Some(name) = args
        .limit
        .iter()
        .find(|name| !names.contains(&name.as_str()))
    {
        let fault = Fault::new("E-INV-LIMIT", format!("the inventory has no node {name}"));
        let fault = match config::nearest(name, &names) {
            Some(near) => fault.fix(format!("did you mean {near}?")),
            None => fault.fix(format!("its nodes are {}", names.join(", "))),
        };
        return Err(fault.exit(Exit::Usage).into());
    }
    let key_path = |purpose: &str| args.out.join(format!("{}.{purpose}.key", nodes.cluster));
    let mut files = BTreeMap::new();
    for node in &nodes.nodes {
        if !args.limit.is_empty() && !args.limit.contains(&node.name) {
            continue;
        }
        files.insert(
            args.out.join(format!("{}.toml", node.name)),
            Contents::Config(node.config.clone()),
        );
        files.insert(
            key_path("overlay"),
            Contents::Key(nodes.keys.overlay.clone()),
        );
        let (purpose, key) = match node.is_master {
            true => ("cluster", &nodes.keys.cluster),
            false => ("agent", &nodes.keys.agent),
        };
        files.insert(key_path(purpose), Contents::Key(key.clone()));
    }
    Ok(files)
}

/// Refuses before anything is written, where a file with other contents stands in the way.
fn refuse_others(files: &BTreeMap<PathBuf, Contents>) -> anyhow::Result<()> {
    for (path, contents) in files.iter().filter(|(path, _)| path.exists()) {
        let same = match contents {
            Contents::Config(text) => fs::read_to_string(path).is_ok_and(|there| there == *text),
            Contents::Key(key) => *secret::read(path).map_err(Fault::from)? == **key,
        };
        if !same {
            let what = format!(
                "{} exists and says something else; nothing was written",
                path.display()
            );
            let fault = Fault::new("E-INV-EXISTS", what);
            return Err(fault
                .fix("move it away, or give another directory: --out DIR")
                .into());
        }
    }
    Ok(())
}

fn write(path: &Path, contents: &Contents) -> anyhow::Result<()> {
    match contents {
        Contents::Key(key) => secret::write_new(path, key).map_err(Fault::from)?,
        Contents::Config(text) => {
            let mut file = fs::File::create_new(path)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
        }
    }
    Ok(())
}
