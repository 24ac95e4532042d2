//! Amounts with a unit, as the config file has them: `4G` of memory, `20M` bits a second.

/// Memory counts in powers of 1024, as systemd and Kubernetes (`Mi`) count it.
pub const BINARY: u64 = 1024;
/// Bits a second count in powers of 1000, as every provider sells them.
pub const DECIMAL: u64 = 1000;

const UNITS: [&str; 5] = ["", "K", "M", "G", "T"];

/// Reads a whole number with one of the units; `None` for anything else, or when it is too large to count.
pub fn read(text: &str, base: u64) -> Option<u64> {
    let digits = text.trim_end_matches(|character: char| character.is_ascii_alphabetic());
    let number: u64 = digits.parse().ok()?;
    let unit = &text[digits.len()..];
    let power = UNITS.iter().position(|known| *known == unit)?;
    number.checked_mul(base.checked_pow(power.try_into().ok()?)?)
}

/// The shortest text that [`read`] makes the same number of.
pub fn written(mut number: u64, base: u64) -> String {
    let mut power = 0;
    while number > 0 && number.is_multiple_of(base) && power + 1 < UNITS.len() {
        number /= base;
        power += 1;
    }
    format!("{number}{}", UNITS[power])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for number in [0, 1, 999, 1000, 1024, 1536, 4 << 30, 20_000_000, u64::MAX] {
            for base in [BINARY, DECIMAL] {
                assert_eq!(read(&written(number, base), base), Some(number));
            }
        }
        assert_eq!(written(4 << 30, BINARY), "4G");
        assert_eq!(written(20_000_000, DECIMAL), "20M");
    }

    #[test]
    fn nothing_else_is_an_amount() {
        for text in [
            "",
            "G",
            "-1G",
            "1.5G",
            "4GB",
            "4 G",
            "4g",
            "99999999999T",
            "+",
        ] {
            assert_eq!(read(text, BINARY), None, "{text}");
        }
    }
}
