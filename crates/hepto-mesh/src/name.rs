//! Names of clusters and nodes: lower-case LDH labels (RFC 1123 §2.1), parsed once and trusted from then on.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

/// Longest node name in bytes: one DNS label.
pub const NODE_MAX: usize = 63;
/// Longest cluster name in bytes: `/run/hepto/<cluster>.<node>/control.sock` has to fit the 107 bytes of a socket path.
pub const CLUSTER_MAX: usize = 15;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing was given.
    #[error("a {what} name is empty; give it at least one letter")]
    Empty {
        /// `node` or `cluster`.
        what: &'static str,
    },
    /// More bytes than the limit.
    #[error(
        "the {what} name \"{name}\" has {length} characters, at most {limit} are allowed; shorten it"
    )]
    Long {
        /// `node` or `cluster`.
        what: &'static str,
        /// What was given.
        name: String,
        /// Its length in bytes.
        length: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// A character outside `a-z`, `0-9`, `-`.
    #[error(
        "the {what} name \"{name}\" contains '{found}'; use lower-case letters, digits and hyphens only"
    )]
    Character {
        /// `node` or `cluster`.
        what: &'static str,
        /// What was given.
        name: String,
        /// The first character that is not allowed.
        found: char,
    },
    /// A hyphen at an end.
    #[error("the {what} name \"{name}\" begins or ends with a hyphen; remove it")]
    Hyphen {
        /// `node` or `cluster`.
        what: &'static str,
        /// What was given.
        name: String,
    },
    /// Digits alone read as an address in some resolvers and as a number in YAML.
    #[error("the {what} name \"{name}\" is all digits; add a letter")]
    Digits {
        /// `node` or `cluster`.
        what: &'static str,
        /// What was given.
        name: String,
    },
    /// `localhost` always means the machine itself.
    #[error("a {what} cannot be named \"localhost\"; choose another name")]
    Localhost {
        /// `node` or `cluster`.
        what: &'static str,
    },
}

impl NameError {
    /// The stable code of the error, as printed and documented.
    pub fn code(&self) -> &'static str {
        match self {
            NameError::Empty { .. } => "E-NAME-EMPTY",
            NameError::Long { .. } => "E-NAME-LONG",
            NameError::Character { .. } => "E-NAME-CHARACTER",
            NameError::Hyphen { .. } => "E-NAME-HYPHEN",
            NameError::Digits { .. } => "E-NAME-DIGITS",
            NameError::Localhost { .. } => "E-NAME-LOCALHOST",
        }
    }
}

fn check(what: &'static str, name: &str, limit: usize) -> Result<(), NameError> {
    let owned = || name.to_owned();
    if name.is_empty() {
        return Err(NameError::Empty { what });
    }
    let allowed = |c: &char| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-';
    if let Some(found) = name.chars().find(|c| !allowed(c)) {
        return Err(NameError::Character {
            what,
            name: owned(),
            found,
        });
    }
    if name.len() > limit {
        return Err(NameError::Long {
            what,
            name: owned(),
            length: name.len(),
            limit,
        });
    }
    if name.starts_with('-') || name.ends_with('-') {
        return Err(NameError::Hyphen {
            what,
            name: owned(),
        });
    }
    if name.bytes().all(|b| b.is_ascii_digit()) {
        return Err(NameError::Digits {
            what,
            name: owned(),
        });
    }
    if name == "localhost" {
        return Err(NameError::Localhost { what });
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal, $limit:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(SmolStr);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                check($what, text, $limit)?;
                Ok(Self(SmolStr::new(text)))
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0.into()
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self.0.as_str(), f)
            }
        }
    };
}

name!(
    /// A node's name: the overlay's, the hosts file's and Kubernetes'. Unique in its cluster.
    NodeName,
    "node",
    NODE_MAX
);
name!(
    /// A cluster's name. It separates keys, addresses and namespaces of clusters on one host.
    ClusterName,
    "cluster",
    CLUSTER_MAX
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_names() {
        for text in ["a", "mars", "node-1", "1a", "xn--abc", &"a".repeat(63)] {
            assert_eq!(text.parse::<NodeName>().expect(text).as_str(), text);
        }
        assert!("a".repeat(15).parse::<ClusterName>().is_ok());
    }

    #[test]
    fn each_fault_has_its_own_code() {
        let code = |text: &str| text.parse::<NodeName>().expect_err(text).code();
        assert_eq!(code(""), "E-NAME-EMPTY");
        assert_eq!(code(&"a".repeat(64)), "E-NAME-LONG");
        assert_eq!(code("Mars"), "E-NAME-CHARACTER");
        assert_eq!(code("mars.example"), "E-NAME-CHARACTER");
        assert_eq!(code("mä"), "E-NAME-CHARACTER");
        assert_eq!(code("-a"), "E-NAME-HYPHEN");
        assert_eq!(code("a-"), "E-NAME-HYPHEN");
        assert_eq!(code("123"), "E-NAME-DIGITS");
        assert_eq!(code("localhost"), "E-NAME-LOCALHOST");
        assert_eq!(
            "a".repeat(16)
                .parse::<ClusterName>()
                .expect_err("long")
                .code(),
            "E-NAME-LONG"
        );
    }

    #[test]
    fn serde_checks_too() {
        assert!(NodeName::try_from("UPPER".to_owned()).is_err());
        assert_eq!(
            format!("{:>6}", "mars".parse::<NodeName>().expect("a name")),
            "  mars"
        );
    }
}
