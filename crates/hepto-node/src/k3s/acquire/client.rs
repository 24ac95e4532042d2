//! HTTPS: who is trusted, through which proxy, how long to wait. All of ureq is here and in `download`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};
use ureq::{Agent, Proxy, ProxyProtocol};

use super::Error;

/// Where distributions keep the system's authorities, in the order in which they are looked for.
const SYSTEM: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// GitHub needs two redirects; more than this many go round in a circle.
const REDIRECTS: u32 = 8;

/// How long to wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patience {
    /// For a name and a connection, TLS included.
    pub connect: Duration,
    /// For the next byte; and over this time at least [`Patience::least`] bytes a second have to come.
    pub silence: Duration,
    /// Bytes a second: a line that is slower than the slowest modem does not finish.
    pub least: u64,
}

impl Default for Patience {
    fn default() -> Self {
        Patience {
            connect: Duration::from_secs(30),
            silence: Duration::from_secs(60),
            least: 1024,
        }
    }
}

/// What asks a server, by HTTPS alone.
///
/// # Errors
/// When `authority` cannot be read, or a proxy is not understood.
pub fn agent(authority: Option<&Path>, patience: &Patience) -> Result<Agent, Error> {
    let tls = TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .root_certs(roots(authority)?)
        .build();
    let config = Agent::config_builder()
        .tls_config(tls)
        .https_only(true)
        .http_status_as_error(false)
        .max_redirects(REDIRECTS)
        .proxy(proxy(|name| std::env::var(name).ok())?)
        .user_agent(concat!("hepto-node/", env!("CARGO_PKG_VERSION")))
        // What is compressed on the way has another length and another digest.
        .accept_encoding("identity")
        .timeout_resolve(Some(patience.connect))
        .timeout_connect(Some(patience.connect))
        .timeout_recv_response(Some(patience.silence))
        .timeout_per_read(Some(patience.silence))
        .timeout_per_write(Some(patience.silence))
        .build();
    Ok(config.into())
}

/// `k3s.ca_file`, else SSL_CERT_FILE, else the system's, else Mozilla's, which are part of this binary.
fn roots(authority: Option<&Path>) -> Result<RootCerts, Error> {
    let named = || std::env::var_os("SSL_CERT_FILE").filter(|path| !path.is_empty());
    if let Some(path) = authority
        .map(Path::to_owned)
        .or_else(|| named().map(PathBuf::from))
    {
        return match certificates(&path) {
            Ok(found) if !found.is_empty() => Ok(found.into()),
            Ok(_) => Err(Error::Authority {
                path,
                why: "there is no certificate in it".into(),
            }),
            Err(why) => Err(Error::Authority { path, why }),
        };
    }
    let system = SYSTEM
        .iter()
        .filter_map(|path| certificates(Path::new(path)).ok());
    let found = system.into_iter().find(|found| !found.is_empty());
    Ok(found.map_or(RootCerts::WebPki, RootCerts::from))
}

fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>, String> {
    let text = fs::read(path).map_err(|error| error.to_string())?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let own = |der: &CertificateDer<'_>| Certificate::from_der(der).to_owned();
    Ok(read
        .map_err(|error| error.to_string())?
        .iter()
        .map(own)
        .collect())
}

/// The proxy that the environment names, as other programs read it: curl(1), "ENVIRONMENT".
fn proxy(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Proxy>, Error> {
    let set = |name: &&str| variable(name).filter(|value| !value.trim().is_empty());
    let names = ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];
    let Some((name, url)) = names.iter().find_map(|name| Some((*name, set(name)?))) else {
        return Ok(None);
    };
    let refuse = |why: &str| Error::Proxy {
        variable: name,
        why: why.to_owned(),
    };
    let Ok(plain) = Proxy::new(url.trim()) else {
        return Err(refuse("it is no address of a proxy"));
    };
    if !matches!(plain.protocol(), ProxyProtocol::Http | ProxyProtocol::Https) {
        return Err(refuse("SOCKS is not spoken"));
    }
    let Some(exceptions) = ["no_proxy", "NO_PROXY"].iter().find_map(set) else {
        return Ok(Some(plain));
    };
    let mut builder = Proxy::builder(plain.protocol())
        .host(plain.host())
        .port(plain.port());
    if let Some(user) = plain.username() {
        builder = builder.username(user);
    }
    if let Some(password) = plain.password() {
        builder = builder.password(password);
    }
    for exception in exceptions.split(',').map(str::trim) {
        // A domain excepts all that is below it, whether it is written with a dot or without.
        let bare = exception.trim_start_matches('.');
        if !bare.is_empty() {
            builder = builder.no_proxy(bare).no_proxy(&format!(".{bare}"));
        }
    }
    let proxy = builder.build();
    proxy
        .map(Some)
        .map_err(|_| refuse("it is no address of a proxy"))
}

/// What went wrong with a request, in our words.
pub fn failed(url: &str, error: ureq::Error, patience: &Patience) -> Error {
    use ureq::Error as Ureq;
    let url = url.to_owned();
    match error {
        Ureq::Rustls(error) => untrusted(url, &error),
        Ureq::Io(error) => failed_io(url, error),
        Ureq::Timeout(_) | Ureq::BodyStalled => Error::Stall {
            url,
            seconds: patience.silence.as_secs(),
            came: 0,
        },
        Ureq::TooManyRedirects => Error::Redirect {
            url,
            why: format!("more than {REDIRECTS} times, in a circle"),
        },
        Ureq::RequireHttpsOnly(to) => Error::Redirect {
            url,
            why: format!("to {to}, which anyone on the way could change"),
        },
        Ureq::RedirectFailed | Ureq::BadUri(_) => Error::Redirect {
            url,
            why: "to no address".into(),
        },
        other => Error::Network {
            url,
            why: other.to_string(),
        },
    }
}

fn failed_io(url: String, error: io::Error) -> Error {
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(inner) => untrusted(url, inner),
        None => Error::Network {
            url,
            why: error.to_string(),
        },
    }
}

fn untrusted(url: String, error: &rustls::Error) -> Error {
    use rustls::CertificateError as Bad;
    let rustls::Error::InvalidCertificate(bad) = error else {
        return Error::Network {
            url,
            why: error.to_string(),
        };
    };
    let why = match bad {
        Bad::Expired | Bad::ExpiredContext { .. } => {
            "it has expired, by this machine's clock".into()
        }
        Bad::NotValidYet | Bad::NotValidYetContext { .. } => {
            "it is not valid yet, by this machine's clock".into()
        }
        Bad::UnknownIssuer => "nobody whom this machine trusts has signed it".into(),
        Bad::NotValidForName | Bad::NotValidForNameContext { .. } => "it is of another name".into(),
        other => other.to_string(),
    };
    Error::Certificate { url, why }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Result<Option<Proxy>, Error> {
        let value = |name: &str| {
            let found = pairs.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        proxy(value)
    }

    #[test]
    fn the_proxy_of_the_environment_is_used_but_for_its_exceptions() {
        assert!(
            of(&[("http_proxy", "http://p:1"), ("HTTPS_PROXY", "")])
                .unwrap()
                .is_none()
        );
        let pairs = [
            ("HTTPS_PROXY", "http://user:pass@proxy.example:3128"),
            ("ALL_PROXY", "http://other:1"),
            ("NO_PROXY", "example.org, .internal ,"),
        ];
        let proxy = of(&pairs).unwrap().unwrap();
        assert_eq!((proxy.host(), proxy.port()), ("proxy.example", 3128));
        assert_eq!(
            (proxy.username(), proxy.password()),
            (Some("user"), Some("pass"))
        );
        let excepted = |host: &str| proxy.is_no_proxy(&format!("https://{host}/").parse().unwrap());
        for host in ["example.org", "a.example.org", "internal", "a.internal"] {
            assert!(excepted(host), "{host}");
        }
        for host in ["example.com", "anexample.org", "github.com"] {
            assert!(!excepted(host), "{host}");
        }
    }

    #[test]
    fn a_proxy_that_is_not_understood_is_an_error_and_not_a_detour() {
        for url in ["socks5://127.0.0.1:1080", "ftp://x", "http://:bad:url:"] {
            let error = of(&[("https_proxy", url)]).unwrap_err();
            assert_eq!(error.code(), "E-K3S-PROXY", "{url}");
            assert!(
                !error.to_string().contains(url),
                "it may hold a password: {error}"
            );
        }
    }
}
