//! `config schema` and the published schemas: what is right fits, and what is wrong does not.

use std::fs;

use hepto_tests::{fits, fits_schema, schema};
use serde_json::Value;

use super::documents::{files, read, root};
use super::{Place, hepto, said, text};

/// TOML as JSON.
fn value(text: &str) -> Value {
    let table: toml::Table =
        toml::from_str(text).unwrap_or_else(|error| panic!("{error}:\n{text}"));
    serde_json::to_value(table).expect("no dates in it")
}

fn default() -> String {
    said(&hepto(&["config", "default"])).1
}

/// The default file with each setting that it shows as a comment, but for those that exclude one another.
fn every_setting() -> String {
    let uncomment = |line: &str| match line.strip_prefix('#') {
        Some(setting) if !setting.starts_with(' ') => format!("{setting}\n"),
        _ => format!("{line}\n"),
    };
    default().lines().map(uncomment).collect()
}

#[test]
fn the_schema_that_is_printed_is_the_published_one() {
    let (code, output, errors) = said(&hepto(&["config", "schema"]));
    assert_eq!((code, errors.as_str()), (Some(0), ""));
    let printed: Value = serde_json::from_str(&output).expect("JSON");
    assert_eq!(printed, schema("config"));
}

#[test]
fn good_configs_fit_and_each_kind_of_mistake_does_not() {
    for text in [default(), every_setting()] {
        fits("config", &value(&text)).unwrap_or_else(|wrong| panic!("{wrong}\n{text}"));
    }
    for (right, wrong) in [
        ("name = \"grumpy\"", "name = 3"),
        ("name = \"grumpy\"", "nam = \"grumpy\""),
        ("storage = \"/srv\"", ""),
        ("[cluster]", "[clutter]"),
        ("mode = \"ipvlan\"", "mode = \"bridge\""),
        ("mtu = 1400", "mtu = 1000"),
        ("mtu = 1400", "mtu = \"1400\""),
        ("port = 51820", "port = 0"),
        ("addressing = \"hepto\"", "addressing = \"random\""),
        (
            "addresses = [\"2001:db8:1::1/64\", \"192.168.1.123/24\"]",
            "addresses = \"dhcp\"",
        ),
        (
            "gateways = [\"2001:db8:1::ffff\", \"192.168.1.254\"]",
            "gateways = [{ onlink = true }]",
        ),
        ("bandwidth = \"20M\"", "bandwidth = { left = \"20M\" }"),
        ("enabled = true", "enabled = \"yes\""),
    ] {
        let text = every_setting();
        assert!(text.contains(right), "{right}");
        let text = text.replacen(right, wrong, 1);
        assert!(fits("config", &value(&text)).is_err(), "{wrong} fits");
    }
    let more = every_setting()
        .replace("bandwidth = \"20M\"", "bandwidth = { up = \"20M\" }")
        .replace(
            "\"192.168.1.254\"]",
            "{ via = \"192.0.2.1\", onlink = true }]",
        )
        .replace(
            "addresses = [\"2001:db8:1::1/64\", \"192.168.1.123/24\"]",
            "addresses = \"auto\"",
        );
    fits("config", &value(&more)).expect("the other forms of these settings fit");
}

/// The same, of which each part may be shown alone.
fn without_required(schema: &mut Value) {
    if let Value::Object(object) = schema {
        object.remove("required");
    }
    match schema {
        Value::Object(object) => object.values_mut().for_each(without_required),
        Value::Array(array) => array.iter_mut().for_each(without_required),
        _ => {}
    }
}

#[test]
fn every_config_of_the_documents_fits() {
    let mut partial = schema("config");
    without_required(&mut partial);
    let (mut whole, mut parts) = (0, 0);
    for file in files(&root(), "md") {
        let document = read(&file);
        for block in document.split("```toml").skip(1) {
            let block = block.split("```").next().unwrap_or_default();
            // A line alone, whose section the sentence before it names.
            let block = match block.contains('[') && block.trim_start().starts_with('[') {
                true => block.to_owned(),
                false => format!("[cluster]\n{block}"),
            };
            let value = value(&block);
            let is_whole = value.get("node").is_some() && value.get("cluster").is_some();
            let fitting = match is_whole {
                true => fits("config", &value),
                false => fits_schema(&partial, &value),
            };
            fitting.unwrap_or_else(|wrong| panic!("{}: {wrong}\n{block}", file.display()));
            *(if is_whole { &mut whole } else { &mut parts }) += 1;
        }
    }
    assert!(
        whole >= 3 && parts >= 3,
        "only {whole} configs and {parts} parts were found"
    );
}

#[test]
fn what_config_check_and_show_print_is_as_published() {
    let place = Place::new();
    place.import(&[]);
    let path = place.path("out/grumpy.toml");
    let json = |command: &str| {
        let (code, output, errors) = said(&hepto(&["config", command, "--json", text(&path)]));
        let value: Value = serde_json::from_str(&output).unwrap_or_else(|_| panic!("{errors}"));
        fits(&format!("config-{command}"), &value)
            .unwrap_or_else(|wrong| panic!("{wrong}\n{value:#}"));
        (code, value)
    };
    let (code, mut shown) = json("show");
    assert_eq!(code, Some(0));
    // Without what follows from it, it is a config file.
    shown.as_object_mut().expect("an object").remove("derived");
    let shown = value(&toml::to_string(&without_nulls(shown)).expect("TOML"));
    fits("config", &shown).unwrap_or_else(|wrong| panic!("{wrong}\n{shown:#}"));

    let (code, checked) = json("check");
    assert_eq!(code, Some(0));
    assert_eq!(
        (&checked["good"], &checked["node"]),
        (&true.into(), &"grumpy".into())
    );
    let config = fs::read_to_string(&path).expect("text");
    fs::write(&path, config.replace("mtu = 1400", "mtu = 100")).expect("a file");
    let (code, checked) = json("check");
    assert_eq!((code, &checked["good"]), (Some(78), &false.into()));
    let found = &checked["findings"][0];
    assert_eq!(
        (&found["code"], &found["severity"]),
        (&"E-NET-MTU".into(), &"error".into())
    );
    assert_eq!(
        (&found["line"], &found["column"]),
        (&11.into(), &7.into()),
        "{checked}"
    );
}

fn without_nulls(mut value: Value) -> Value {
    if let Value::Object(object) = &mut value {
        object.retain(|_, inner| !inner.is_null());
        object
            .values_mut()
            .for_each(|inner| *inner = without_nulls(inner.take()));
    }
    value
}
