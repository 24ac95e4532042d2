//! The environment of k3s, made from nothing: what it inherits could betray the supervisor's service to it
//! (`INVOCATION_ID`, `JOURNAL_STREAM`, `LISTEN_FDS`, `WATCHDOG_USEC`) or override its settings (`K3S_*`).

/// `base` (PATH, HOME and the host's proxies) with what must never go through a proxy: the cluster's own names and
/// prefixes.
pub fn environment(base: Vec<(String, String)>, own: &[String]) -> Vec<(String, String)> {
    let proxied = |name: &str| {
        matches!(
            name,
            "HTTP_PROXY" | "HTTPS_PROXY" | "http_proxy" | "https_proxy"
        )
    };
    if !base
        .iter()
        .any(|(name, value)| proxied(name) && !value.is_empty())
    {
        return base
            .into_iter()
            .filter(|(name, _)| !excepted(name))
            .collect();
    }
    let theirs = base
        .iter()
        .filter(|(name, _)| excepted(name))
        .flat_map(|(_, value)| value.split(','));
    let mut exceptions: Vec<String> = Vec::new();
    for exception in theirs.map(str::trim).chain(own.iter().map(String::as_str)) {
        if !exception.is_empty() && !exceptions.iter().any(|known| known == exception) {
            exceptions.push(exception.to_owned());
        }
    }
    let mut environment: Vec<_> = base
        .into_iter()
        .filter(|(name, _)| !excepted(name))
        .collect();
    // Go reads either spelling; the programs of pods' images that k3s starts may read the other.
    for name in ["NO_PROXY", "no_proxy"] {
        environment.push((name.to_owned(), exceptions.join(",")));
    }
    environment
}

fn excepted(name: &str) -> bool {
    matches!(name, "NO_PROXY" | "no_proxy")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn the_cluster_is_never_asked_for_through_the_proxy() {
        let base = pairs(&[
            ("PATH", "/bin"),
            ("https_proxy", "http://p:3128"),
            ("no_proxy", "a, b"),
            ("NO_PROXY", "b"),
        ]);
        let own = ["grumpy".to_owned(), "10.42.0.0/16".to_owned()];
        let made = environment(base, &own);
        let exceptions = "a,b,grumpy,10.42.0.0/16";
        let expected = [
            ("PATH", "/bin"),
            ("https_proxy", "http://p:3128"),
            ("NO_PROXY", exceptions),
            ("no_proxy", exceptions),
        ];
        assert_eq!(made, pairs(&expected));
    }

    #[test]
    fn without_a_proxy_there_is_nothing_to_except() {
        let base = pairs(&[("PATH", "/bin"), ("NO_PROXY", "a"), ("HTTP_PROXY", "")]);
        assert_eq!(
            environment(base, &["grumpy".to_owned()]),
            pairs(&[("PATH", "/bin"), ("HTTP_PROXY", "")])
        );
    }
}
