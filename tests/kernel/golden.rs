//! Golden files: what is promised, written down. `CLAWSEC_BLESS=1` writes them anew.

use std::path::PathBuf;

/// The path of a golden file of this tier. `CLAWSEC_GOLDEN` names their folder where the
/// workspace's is not to be seen.
pub(crate) fn path(name: &str) -> PathBuf {
    std::env::var_os("CLAWSEC_GOLDEN")
        .map_or_else(
            || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/kernel/golden")),
            PathBuf::from,
        )
        .join(name)
}

/// Whether the files are to be written instead of compared.
pub(crate) fn bless() -> bool {
    std::env::var_os("CLAWSEC_BLESS").is_some()
}

/// The file must hold exactly this.
#[track_caller]
pub(crate) fn check(name: &str, found: &str) {
    if bless() {
        std::fs::write(path(name), found).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(path(name)).unwrap_or_default();
    assert!(
        found == expected,
        "{} has changed; look at the difference, then run again with CLAWSEC_BLESS=1\n\
         --- expected\n{expected}--- found\n{found}",
        path(name).display()
    );
}
