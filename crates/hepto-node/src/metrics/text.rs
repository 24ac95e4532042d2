//! The OpenMetrics text format, version 1.0, as far as it is used here.

use std::fmt::{Display, Write as _};

/// What kind of number a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Goes up and down.
    Gauge,
    /// Goes up, and begins at 0 with the process.
    Counter,
    /// Always 1; its labels are what it says.
    Info,
}

impl Kind {
    /// As the format and the reference write it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
            Kind::Info => "info",
        }
    }

    /// What the names of its samples end in.
    fn suffix(self) -> &'static str {
        match self {
            Kind::Gauge => "",
            Kind::Counter => "_total",
            Kind::Info => "_info",
        }
    }
}

/// One metric: a name that stays, and what it means.
#[derive(Debug)]
pub(super) struct Family {
    /// Its name without the suffix of its kind.
    pub(super) name: &'static str,
    /// Its kind.
    pub(super) kind: Kind,
    /// Its labels, in order.
    pub(super) labels: &'static [&'static str],
    /// One sentence.
    pub(super) help: &'static str,
}

impl Family {
    /// The name of its samples: what is asked for in a query.
    pub(super) fn sample(&self) -> String {
        format!("{}{}", self.name, self.kind.suffix())
    }

    /// The unit, which the format wants at the end of the name.
    fn unit(&self) -> Option<&'static str> {
        let unit = self.name.rsplit('_').next()?;
        ["bytes", "seconds"]
            .into_iter()
            .find(|known| *known == unit)
    }

    /// Writes the samples, each with a value for every label; nothing when there is none.
    pub(super) fn write<V: Display>(
        &self,
        out: &mut String,
        samples: impl IntoIterator<Item = (Vec<String>, V)>,
    ) {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return;
        }
        let (name, kind) = (self.name, self.kind.word());
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(out, "# TYPE {name} {kind}");
        if let Some(unit) = self.unit() {
            let _ = writeln!(out, "# UNIT {name} {unit}");
        }
        let _ = writeln!(out, "# HELP {name} {}", self.help);
        for (values, value) in samples {
            let pairs = self.labels.iter().zip(&values);
            let pairs: Vec<String> = pairs
                .map(|(label, value)| format!("{label}=\"{}\"", escaped(value)))
                .collect();
            let labels = match pairs.is_empty() {
                true => String::new(),
                false => format!("{{{}}}", pairs.join(",")),
            };
            let _ = writeln!(out, "{}{labels} {value}", self.sample());
        }
    }
}

/// As a label's value has to be written.
fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_says_kind_and_unit_and_escapes_its_labels() {
        let family = Family {
            name: "hepto_x_bytes",
            kind: Kind::Counter,
            labels: &["a", "b"],
            help: "Some bytes.",
        };
        let mut out = String::new();
        family.write(&mut out, Vec::<(Vec<String>, u64)>::new());
        assert_eq!(out, "", "no sample, no word");
        family.write(&mut out, [(vec!["1".into(), "q\"\\\nz".into()], 7)]);
        assert_eq!(
            out,
            "# TYPE hepto_x_bytes counter\n# UNIT hepto_x_bytes bytes\n# HELP hepto_x_bytes Some bytes.\n\
             hepto_x_bytes_total{a=\"1\",b=\"q\\\"\\\\\\nz\"} 7\n"
        );
    }
}
