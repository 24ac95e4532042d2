//! `config fingerprint` and `config diff`: two owners find out where their configs differ, and no key is shown.

use std::fs;
use std::path::PathBuf;

use hepto_tests::fits;
use serde_json::Value;

use super::{CLUSTER, OVERLAY, Place, hepto, said, text};

/// Two configs of one cluster, as two owners have them.
struct Pair {
    place: Place,
    mine: PathBuf,
    theirs: PathBuf,
}

impl Pair {
    fn new() -> Pair {
        let place = Place::new();
        place.import(&[]);
        let [mine, theirs] =
            ["grumpy", "sleepy"].map(|node| place.path(&format!("out/{node}.toml")));
        Pair {
            place,
            mine,
            theirs,
        }
    }

    /// Changes the other's config.
    fn edit(&self, from: &str, to: &str) {
        let config = fs::read_to_string(&self.theirs).expect("text");
        assert!(config.contains(from), "{from}: {config}");
        fs::write(&self.theirs, config.replace(from, to)).expect("a file");
    }

    /// The path of a key's file, as the import names it.
    fn key(&self, purpose: &str) -> PathBuf {
        let found = self
            .place
            .imported()
            .into_iter()
            .find(|name| name.ends_with(&format!(".{purpose}.key")));
        self.place.path(&format!("out/{}", found.expect("a key")))
    }

    /// The other's fingerprint, as it comes by mail.
    fn mail(&self) -> PathBuf {
        let (code, output, errors) = said(&hepto(&["config", "fingerprint", text(&self.theirs)]));
        assert_eq!(code, Some(0), "{errors}");
        let path = self.place.path("their.txt");
        fs::write(
            &path,
            output
                .lines()
                .map(|line| format!("> {line}\n"))
                .collect::<String>(),
        )
        .expect("a file");
        path
    }

    /// The settings that differ, by the config itself and by its fingerprint.
    fn differences(&self) -> Vec<String> {
        let by = |other: &PathBuf| {
            let (code, output, errors) = said(&hepto(&[
                "config",
                "diff",
                text(&self.mine),
                text(other),
                "--json",
            ]));
            let found: Value = serde_json::from_str(&output).unwrap_or_else(|_| panic!("{errors}"));
            fits("config-diff", &found).unwrap_or_else(|wrong| panic!("{wrong}\n{found:#}"));
            let differences = found["differences"].as_array().expect("a list").iter();
            let settings: Vec<String> = differences
                .map(|difference| difference["setting"].as_str().expect("text").to_owned())
                .collect();
            assert_eq!(code, Some(i32::from(!settings.is_empty())), "{found:#}");
            assert_eq!(found["agree"], settings.is_empty(), "{found:#}");
            settings
        };
        let settings = by(&self.theirs);
        assert_eq!(by(&self.mail()), settings, "the fingerprint says the same");
        settings
    }
}

#[test]
fn two_nodes_of_one_cluster_agree_and_no_key_is_shown() {
    let pair = Pair::new();
    assert_eq!(pair.differences(), Vec::<String>::new());
    let mail = fs::read_to_string(pair.mail()).expect("text");
    let agent = fs::read_to_string(pair.key("agent")).expect("a key");
    for secret in [OVERLAY, CLUSTER, agent.trim()] {
        assert!(
            !mail.contains(secret) && !mail.contains(&secret[..8]),
            "{mail}"
        );
    }
    assert!(
        mail.lines().all(|line| line.len() <= 78),
        "a mail program would break a line: {mail}"
    );
    // The master has the cluster key and the agent what follows from it: they can be compared all the same.
    let (_, output, _) = said(&hepto(&[
        "config",
        "diff",
        text(&pair.mine),
        text(&pair.theirs),
    ]));
    assert!(
        output.contains("agree in all 10 settings") && !output.contains("not compared"),
        "{output}"
    );
}

#[test]
fn each_setting_that_must_agree_is_named_when_it_does_not() {
    for (from, to, setting) in [
        ("mtu = 1400", "mtu = 1420", "network.mtu"),
        (
            "master = \"grumpy\"",
            "master = \"dopey\"",
            "cluster.master",
        ),
        ("[mesh]", "[mesh]\nipv4 = \"10.45.0.0/16\"", "mesh.ipv4"),
        (
            "[cluster]",
            "[cluster]\nula = \"fd12:3456:789a::/48\"",
            "cluster.ula",
        ),
        (
            "[cluster]",
            "[cluster]\npod_cidrs = [\"10.41.0.0/16\", \"fd12:3456:789a:100::/56\"]",
            "cluster.pod_cidrs",
        ),
    ] {
        let pair = Pair::new();
        pair.edit(from, to);
        let differences = pair.differences();
        assert!(
            differences.contains(&setting.to_owned()),
            "{setting}: {differences:?}"
        );
        assert!(
            setting != "network.mtu" || differences.len() == 1,
            "{differences:?}"
        );
    }
}

#[test]
fn a_wrong_key_is_named_and_not_shown() {
    for (purpose, setting) in [("overlay", "key.overlay"), ("agent", "key.agent")] {
        let pair = Pair::new();
        let wrong = pair.place.path("wrong.key");
        let key = pair.key(purpose);
        // One character is mistyped.
        let mistyped = fs::read_to_string(&key)
            .expect("a key")
            .replacen(['a', 'b', 'c'], "Z", 1);
        fs::copy(&key, &wrong).expect("a file of the same mode");
        fs::write(&wrong, &mistyped).expect("a file");
        pair.edit(text(&key), text(&wrong));
        assert_eq!(pair.differences(), [setting]);
        let (code, output, _) = said(&hepto(&[
            "config",
            "diff",
            text(&pair.mine),
            text(&pair.theirs),
        ]));
        assert_eq!(code, Some(1));
        assert!(
            output.contains(setting) && output.contains("on sleepy"),
            "{output}"
        );
        for secret in [OVERLAY, CLUSTER, mistyped.trim()] {
            assert!(!output.contains(secret), "{output}");
        }
    }
}

#[test]
fn what_cannot_be_compared_is_said_and_what_cannot_be_read_is_refused() {
    let pair = Pair::new();
    fs::remove_file(pair.key("agent")).expect("a file");
    let (code, output, _) = said(&hepto(&[
        "config",
        "diff",
        text(&pair.mine),
        text(&pair.theirs),
    ]));
    assert_eq!(code, Some(0));
    assert!(
        output.contains("not compared: key.agent") && output.contains("does not exist"),
        "{output}"
    );
    let (_, _, errors) = said(&hepto(&["config", "fingerprint", text(&pair.theirs)]));
    assert!(errors.contains("left out: key.agent"), "{errors}");

    let mail = pair.mail();
    let whole = fs::read_to_string(&mail).expect("text");
    for (cut, code) in [
        (
            whole.replace("fingerprint = 1", "fingerprint = 2"),
            "E-CONFIG-FINGERPRINT",
        ),
        (whole[..whole.len() / 2].to_owned(), "E-CONFIG-FINGERPRINT"),
        ("hello".to_owned(), "E-CONFIG-SYNTAX"),
    ] {
        fs::write(&mail, cut).expect("a file");
        let (exit, output, errors) =
            said(&hepto(&["config", "diff", text(&pair.mine), text(&mail)]));
        assert_eq!((exit, output.as_str()), (Some(78), ""), "{errors}");
        assert!(errors.contains(code), "{code}: {errors}");
    }
    // Somebody else's text is nothing that a terminal obeys.
    fs::write(
        &mail,
        whole
            .replace("sleepy", "sl\\u001b[2Jepy")
            .replace("1400", "\\u001b[31m1420"),
    )
    .expect("a file");
    let (code, output, _) = said(&hepto(&["config", "diff", text(&pair.mine), text(&mail)]));
    assert_eq!(code, Some(1));
    assert!(
        output.contains("network.mtu") && !output.contains('\u{1b}'),
        "{output}"
    );
}
