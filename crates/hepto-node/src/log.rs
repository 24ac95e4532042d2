//! What a node says while it runs: to the journal under systemd, else to standard error.
//!
//! Every line at `warn` and above has the fields `code` and `fix` (a test walks the source for that). `limit` bounds how many
//! lines there are, whoever provokes them.

mod limit;

use std::io::IsTerminal;

use clap::ValueEnum;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use crate::config::Config;
use crate::fault::Fault;
use limit::Limit;
pub use limit::tell_unsaid;

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Journald under systemd, text elsewhere
    Auto,
    /// One line of text each
    Text,
    /// One JSON object each
    Json,
}

impl LogFormat {
    /// As it is written on the command line.
    pub fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// Says from now on what is logged, in the journal under the names of a config's node and cluster.
///
/// # Errors
/// `E-RUN-LOG` for a level that is none.
pub fn start(format: LogFormat, config: Option<&Config>) -> anyhow::Result<()> {
    // memberlist logs an error for each packet that it cannot read: a flood would fill the journal. Its crates' names all
    // begin so; what matters of it hepto-mesh counts and says. boringtun says at `error` that a session expired, which is
    // an ordinary thing here.
    let level =
        std::env::var("HEPTO_LOG").unwrap_or_else(|_| "info,memberlist=off,boringtun=off".into());
    let filter = EnvFilter::try_new(&level).map_err(|error| {
        Fault::new(
            "E-RUN-LOG",
            format!("HEPTO_LOG={level} is not a filter: {error}"),
        )
        .fix("set it to error, warn, info or debug")
    })?;
    // systemd sets JOURNAL_STREAM for what it connects to the journal (systemd.exec(5)).
    let journal = format == LogFormat::Auto && std::env::var_os("JOURNAL_STREAM").is_some();
    let layer = match (journal.then(tracing_journald::layer), format) {
        (Some(Ok(journal)), _) => journal
            .with_field_prefix(None)
            .with_custom_fields(config.into_iter().flat_map(|config| {
                [
                    ("CLUSTER", config.cluster.name.to_string()),
                    ("NODE", config.node.name.to_string()),
                ]
            }))
            .boxed(),
        (_, LogFormat::Json) => fmt::layer().json().with_writer(std::io::stderr).boxed(),
        _ => {
            let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            fmt::layer()
                .with_ansi(colour)
                .with_target(false)
                .with_writer(std::io::stderr)
                .boxed()
        }
    };
    tracing_subscriber::registry()
        .with(layer)
        .with(Limit)
        .with(filter)
        .try_init()?;
    Ok(())
}
