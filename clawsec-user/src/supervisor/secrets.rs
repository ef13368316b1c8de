//! Secrets at rest that the supervisor alone reads: TLS material and the device seeds.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::hmac;
use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use zeroize::Zeroizing;

use crate::config::TlsConfig;
use crate::ipc::TlsMaterial;

#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("read {path} ({key})")]
    Read {
        path: PathBuf,
        /// The configuration key that names the file.
        key: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "the device secret {path} is not 32 bytes; remove it to make a new one (paired devices must then be paired again)"
    )]
    DeviceSecretLength { path: PathBuf },
    #[error("create {path}")]
    Create {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the system's random source failed")]
    Random,
}

/// Reads certificate and key; whether they fit each other is checked where they are used.
pub(super) fn tls_material(tls: &TlsConfig) -> Result<TlsMaterial, SecretError> {
    let read = |path: &Path, key: &'static str| {
        fs::read_to_string(path).map_err(|source| SecretError::Read {
            path: path.to_owned(),
            key,
            source,
        })
    };
    Ok(TlsMaterial {
        cert_pem: read(&tls.cert, "gateway.tls.cert")?,
        key_pem: read(&tls.key, "gateway.tls.key")?,
        client_ca_pem: tls
            .client_ca
            .as_deref()
            .map(|path| read(path, "gateway.tls.clientCa"))
            .transpose()?,
    })
}

/// One Ed25519 seed for each principal, derived from one secret of this host, so that a device
/// that was paired upstream stays paired across restarts, and a new key needs no new file.
pub(super) fn device_seeds<'a>(
    state_dir: &Path,
    principals: impl Iterator<Item = &'a str>,
) -> Result<BTreeMap<String, [u8; 32]>, SecretError> {
    let secret = device_secret(state_dir)?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_slice());
    let seed = |id: &str| {
        let mut seed = [0; 32];
        let tag = hmac::sign(&key, format!("clawsec device v1 {id}").as_bytes());
        seed.copy_from_slice(tag.as_ref());
        seed
    };
    Ok(principals.map(|id| (id.to_owned(), seed(id))).collect())
}

fn device_secret(state_dir: &Path) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    let path = state_dir.join("device.secret");
    match fs::read(&path) {
        Ok(secret) if secret.len() == 32 => Ok(Zeroizing::new(secret)),
        Ok(_) => Err(SecretError::DeviceSecretLength { path }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => new_device_secret(&path),
        Err(source) => Err(SecretError::Read {
            path,
            key: "--state-dir",
            source,
        }),
    }
}

fn new_device_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    let mut secret = Zeroizing::new(vec![0; 32]);
    // The error type carries nothing.
    SystemRandom::new()
        .fill(&mut secret)
        .map_err(|_unspecified| SecretError::Random)?;
    let write = || {
        if let Some(parent) = path.parent() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(parent)?;
        }
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(&secret)?;
        file.sync_all()
    };
    write().map_err(|source| SecretError::Create {
        path: path.to_owned(),
        source,
    })?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_stable_distinct_and_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let first = device_seeds(&state, ["a", "b"].into_iter()).unwrap();
        let second = device_seeds(&state, ["b", "a"].into_iter()).unwrap();
        assert_eq!(first, second);
        assert_ne!(first["a"], first["b"]);
        let mode = fs::metadata(state.join("device.secret"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_secret_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("device.secret"), b"short").unwrap();
        assert!(device_seeds(dir.path(), ["a"].into_iter()).is_err());
    }
}
