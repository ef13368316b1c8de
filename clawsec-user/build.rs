//! Embeds the BPF object, if one was built.
//!
//! `cargo xtask build` names it in `CLAWSEC_BPF_OBJECT`; else the place it writes to is looked
//! at. Without either the daemon builds with stable Rust alone and says so when it is asked to
//! enforce.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-env-changed=CLAWSEC_BPF_OBJECT");
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?);

    let source = match find()? {
        Some(object) => {
            // Only a file that exists: cargo runs this again each time for one that does not.
            println!("cargo::rerun-if-changed={}", object.display());
            fs::copy(&object, out.join("clawsec.o"))?;
            // Parsed in place, which needs the alignment of its headers.
            "/// The kernel half, if this build has one.\n\
             pub static OBJECT: Option<&[u8]> =\n    \
             Some(aya::include_bytes_aligned!(concat!(env!(\"OUT_DIR\"), \"/clawsec.o\")));\n"
        }
        None => {
            "/// The kernel half, if this build has one.\n\
             pub static OBJECT: Option<&[u8]> = None;\n"
        }
    };
    fs::write(out.join("object.rs"), source)
}

/// The object to embed. One that is named must be there.
fn find() -> io::Result<Option<PathBuf>> {
    if let Some(named) = env::var_os("CLAWSEC_BPF_OBJECT") {
        let named = PathBuf::from(named);
        if named.is_file() {
            return Ok(Some(named));
        }
        let message = format!("CLAWSEC_BPF_OBJECT names no file: {}", named.display());
        return Err(io::Error::new(io::ErrorKind::NotFound, message));
    }
    let manifest = env::var_os("CARGO_MANIFEST_DIR").ok_or(io::ErrorKind::NotFound)?;
    let built = Path::new(&manifest).join("../target/bpf/clawsec.o");
    Ok(built.is_file().then_some(built))
}
