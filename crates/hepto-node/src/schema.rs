//! What is published of the form of our JSON and of the config file: JSON Schema 2020-12, derived from the types.
//!
//! `docs/reference/schema/` has them as files, and a test holds those to the types.

use schemars::Schema;
use schemars::generate::SchemaSettings;
use schemars::transform::{Transform, transform_subschemas};
use serde_json::Value;

use crate::config::File;

/// Of a config file, as editors of TOML take it.
pub fn config() -> Schema {
    let settings = SchemaSettings::draft2020_12().for_deserialize();
    let mut schema = settings.into_generator().into_root_schema_for::<File>();
    without_null(&mut schema);
    schema.insert("title".into(), "hepto-node's config file".into());
    schema
}

/// A key may be left out; TOML has no `null` to write in its place.
fn without_null(schema: &mut Schema) {
    if let Some(Value::Array(kinds)) = schema.get_mut("type") {
        kinds.retain(|kind| kind != "null");
        if let [kind] = kinds.as_slice() {
            let kind = kind.clone();
            schema.insert("type".into(), kind);
        }
    }
    if let Some(Value::Array(choices)) = schema.get_mut("anyOf") {
        choices.retain(|choice| choice["type"] != "null");
    }
    transform_subschemas(&mut without_null as &mut dyn Transform, schema);
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use schemars::JsonSchema;

    use super::*;

    fn output<T: JsonSchema>() -> Schema {
        let settings = SchemaSettings::draft2020_12().for_serialize();
        settings.into_generator().into_root_schema_for::<T>()
    }

    /// Every `--json`, and the config file.
    fn all() -> [(&'static str, Schema); 10] {
        [
            ("config", config()),
            ("config-check", output::<crate::cli::Checked>()),
            ("config-diff", output::<crate::config::Comparison>()),
            ("config-show", output::<crate::config::Shown>()),
            ("mtu", output::<crate::survey::Survey>()),
            ("peers", output::<Vec<crate::status::PeerStatus>>()),
            ("ping", output::<crate::cli::Pinged>()),
            ("preflight", output::<crate::preflight::Report>()),
            ("snapshot-list", output::<Vec<crate::cli::Row>>()),
            ("status", output::<crate::status::Status>()),
        ]
    }

    #[test]
    fn the_published_schemas_are_those_of_the_types() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/schema");
        let write = std::env::var_os("HEPTO_WRITE_SCHEMAS").is_some();
        for (name, schema) in all() {
            let path = folder.join(format!("{name}.json"));
            let text = serde_json::to_string_pretty(&schema).expect("JSON") + "\n";
            if write {
                fs::write(&path, &text).expect("a file of the repository");
            }
            assert_eq!(
                fs::read_to_string(&path).unwrap_or_default(),
                text,
                "docs/reference/schema/{name}.json: write it anew with HEPTO_WRITE_SCHEMAS=1 cargo test --bins schema"
            );
        }
        let there = fs::read_dir(folder).expect("a folder").count();
        assert_eq!(there, all().len(), "a file is there that no type has");
    }
}
