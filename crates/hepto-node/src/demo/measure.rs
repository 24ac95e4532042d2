//! What the demo shows: who reaches whom, how fast, and what a cut does.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use hepto_net::lab::throughput;

use super::interrupt::Interrupt;
use super::neighbour::Neighbour;
use super::progress::{Progress, tell};
use super::town::Town;

/// How long an echo may take in the table.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a cut is shown.
const CUT: Duration = Duration::from_secs(6);
/// How long its healing may take: what a node promises.
const RETURN: Duration = Duration::from_secs(15);

/// Every pair over both families; the table shows the IPv6 latencies.
///
/// # Errors
/// The first pair that does not reach one another.
pub fn reach(town: &Town, progress: &Progress, interrupt: &Interrupt) -> anyhow::Result<String> {
    progress.step("asking everyone for everyone", town.homes.len());
    let mut rows = vec![vec!["from \\ to (ms)".to_owned()]];
    rows[0].extend(town.homes.iter().map(|to| to.name.to_owned()));
    for from in &town.homes {
        let mut row = vec![from.name.to_owned()];
        for to in &town.homes {
            interrupt.check()?;
            row.push(if from.name == to.name {
                "-".to_owned()
            } else {
                latency(from, to)?
            });
        }
        progress.part(&format!(
            "{} hears all others over IPv4 and IPv6",
            from.name
        ));
        rows.push(row);
    }
    Ok(table(&rows))
}

fn latency(from: &Neighbour, to: &Neighbour) -> anyhow::Result<String> {
    let (last, others) = to
        .overlay
        .split_last()
        .context("a node has overlay addresses")?;
    for address in others {
        ensure!(
            from.hears(*address, PATIENCE)?,
            "{} does not reach {} at {address}",
            from.name,
            to.name
        );
    }
    let latency = from.latency(*last);
    let latency = latency.with_context(|| format!("{} does not reach {}", from.name, to.name))?;
    Ok(format!("{:.2}", latency.as_secs_f64() * 1e3))
}

/// One TCP stream through the overlay, between the first two.
pub fn stream(town: &Town, time: Duration) -> anyhow::Result<String> {
    let (from, to, address) = first_two(town)?;
    let bits = throughput(&from.inside()?, &to.inside()?, address, time)?;
    Ok(format!(
        "throughput {} to {}: {} (one TCP stream through the overlay, {} s)\n",
        from.name,
        to.name,
        rate(bits),
        time.as_secs()
    ))
}

fn first_two(town: &Town) -> anyhow::Result<(&Neighbour, &Neighbour, IpAddr)> {
    let [from, to, ..] = &town.homes[..] else {
        anyhow::bail!("a demo has two homes at least")
    };
    Ok((
        from,
        to,
        *to.overlay.last().context("a node has overlay addresses")?,
    ))
}

/// Takes the last home off the bridge for a while, and shows what the first one hears of it.
pub fn cut_and_heal(town: &Town, interrupt: &Interrupt) -> anyhow::Result<()> {
    let (Some(witness), Some(victim)) = (town.homes.first(), town.homes.last()) else {
        return Ok(());
    };
    let to = *victim
        .overlay
        .last()
        .context("a node has overlay addresses")?;
    let patience = Duration::from_millis(250);

    tell(&format!(
        "cutting the home of {} off for {} s",
        victim.name,
        CUT.as_secs()
    ))?;
    town.street.cut(&victim.home)?;
    let start = Instant::now();
    let (mut asked, mut heard) = (0u32, 0u32);
    while start.elapsed() < CUT {
        asked += 1;
        heard += u32::from(witness.hears(to, patience)?);
        interrupt.pause(Duration::from_millis(100))?;
    }
    let loss = 100 * (asked - heard) / asked;
    tell(&format!(
        "  {} asked {} {asked} times and heard {heard} answers: {loss} % loss",
        witness.name, victim.name
    ))?;
    ensure!(
        heard == 0,
        "{} answered through a line that was cut",
        victim.name
    );

    tell("healing it")?;
    town.street.heal(&victim.home)?;
    let start = Instant::now();
    while !witness.hears(to, patience)? {
        interrupt.check()?;
        ensure!(
            start.elapsed() < RETURN,
            "{} did not return within {} s",
            victim.name,
            RETURN.as_secs()
        );
    }
    tell(&format!(
        "  {} hears {} again after {:.1} s, nobody restarted\n",
        witness.name,
        victim.name,
        start.elapsed().as_secs_f64()
    ))?;
    Ok(())
}

/// Columns as wide as their widest cell, two spaces apart.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            rows.iter()
                .filter_map(|row| row.get(column))
                .map(String::len)
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// Bits a second, for a reader.
fn rate(bits: f64) -> String {
    if bits >= 1e9 {
        format!("{:.2} Gbit/s", bits / 1e9)
    } else {
        format!("{:.0} Mbit/s", bits / 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::{rate, table};

    #[test]
    fn a_table_lines_its_columns_up() {
        let rows = [["node", "ms"], ["grumpy", "0.41"], ["doc", "-"]];
        let rows: Vec<Vec<String>> = rows
            .iter()
            .map(|row| row.map(str::to_owned).to_vec())
            .collect();
        assert_eq!(table(&rows), "node    ms\ngrumpy  0.41\ndoc     -\n");
    }

    #[test]
    fn a_rate_is_told_in_the_unit_that_fits() {
        assert_eq!(rate(2_345_000_000.0), "2.35 Gbit/s");
        assert_eq!(rate(345_600_000.0), "346 Mbit/s");
    }
}
