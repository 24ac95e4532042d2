//! Numbers as a reader takes them.

/// With commas between.
pub fn join<T: ToString>(items: &[T]) -> String {
    items
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

/// `3 s`, `2 min`, `5 h` or `4 d`: the largest unit that is not zero.
pub(super) fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..86_400 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Bytes in the largest binary unit that keeps a digit before the point.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let unit = (0..UNITS.len() - 1)
        .find(|unit| count >> (10 * (unit + 1)) == 0)
        .unwrap_or(UNITS.len() - 1);
    match unit {
        0 => format!("{count} B"),
        _ => format!(
            "{:.1} {}",
            count as f64 / (1u64 << (10 * unit)) as f64,
            UNITS[unit]
        ),
    }
}

/// Bits a second in the largest decimal unit, as networks are sold.
pub(super) fn bits(rate: u64) -> String {
    match rate {
        0..1_000 => format!("{rate} bit/s"),
        1_000..1_000_000 => format!("{:.1} kbit/s", rate as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} Mbit/s", rate as f64 / 1e6),
        _ => format!("{:.1} Gbit/s", rate as f64 / 1e9),
    }
}

/// Columns as wide as their widest cell, two spaces apart.
pub fn table<const N: usize>(
    heads: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut all = vec![heads.map(String::from)];
    all.extend(rows);
    let width = |column: usize| all.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths);
        let cells: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        cells.join("  ").trim_end().to_string() + "\n"
    };
    all.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_the_largest_that_fit() {
        assert_eq!(
            [bytes(0), bytes(1023), bytes(1024), bytes(3 << 30)],
            ["0 B", "1023 B", "1.0 KiB", "3.0 GiB"]
        );
        assert_eq!(
            [
                duration(59),
                duration(60),
                duration(7_200),
                duration(200_000)
            ],
            ["59 s", "1 min", "2 h", "2 d"]
        );
    }
}
