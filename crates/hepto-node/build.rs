//! Puts the k3s that `EMBED_K3S` names into the binary: compressed, with its digest. Without it nothing is embedded.

use std::env;
use std::error::Error;
use std::fs;
use std::path::Path;

#[path = "src/k3s/acquire/pack.rs"]
mod pack;

/// Offset and length of `e_machine` in the header of an ELF file, little-endian (System V ABI, chapter 4).
const MACHINE: std::ops::Range<usize> = 18..20;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src/k3s/acquire/pack.rs");
    println!("cargo:rerun-if-env-changed=EMBED_K3S");
    let out = env::var("OUT_DIR")?;
    let out = Path::new(&out);
    let source = match env::var("EMBED_K3S").unwrap_or_default() {
        path if path.is_empty() => "None".to_owned(),
        path => embed(Path::new(&path), out)?,
    };
    fs::write(out.join("embedded.rs"), source)?;
    Ok(())
}

fn embed(path: &Path, out: &Path) -> Result<String, Box<dyn Error>> {
    let shown = path.display();
    if !path.is_absolute() {
        return Err(format!("EMBED_K3S={shown} has to be a whole path, from / on").into());
    }
    println!("cargo:rerun-if-changed={shown}");
    let program = fs::read(path).map_err(|error| format!("EMBED_K3S={shown}: {error}"))?;
    let architecture = env::var("CARGO_CFG_TARGET_ARCH")?;
    // EM_X86_64 and EM_AARCH64.
    let machine: u16 = match architecture.as_str() {
        "x86_64" => 62,
        "aarch64" => 183,
        other => return Err(format!("there is no k3s for {other}").into()),
    };
    if !program.starts_with(b"\x7fELF") || program.get(MACHINE) != Some(&machine.to_le_bytes()[..])
    {
        return Err(format!("EMBED_K3S={shown} is no program for {architecture}").into());
    }
    let packed = pack::pack(&program)?;
    let file = out.join("k3s.deflate");
    fs::write(&file, &packed.bytes)?;
    Ok(format!(
        "Some(Embedded {{ sha256: {:?}, length: {}, packed: include_bytes!({:?}) }})",
        packed.sha256,
        packed.length,
        file.display().to_string()
    ))
}
