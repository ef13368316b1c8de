//! Finding and reading the file, and whom it has to be safe from.
//!
//! Invariant: what was judged is what was read; `trust` looks again after reading.

use std::io;
use std::path::{Path, PathBuf};

use super::compile::compile;
use super::model::{Config, Warning};
use super::problem::{ConfigError, Problem};
use super::sources::{ProcessSources, Sources};
use super::trust::{self, FileTrust};

/// Finds the file: `--config`, else `$CLAWSEC_CONFIG`, else `/etc/clawsec/clawsec.json`, else
/// `~/.clawdbot/clawsec.json`.
///
/// # Errors
/// If none of them exists. A file that was named and is not there is not searched for elsewhere.
pub fn find(explicit: Option<&Path>) -> Result<PathBuf, ConfigError> {
    let variable = std::env::var_os("CLAWSEC_CONFIG").filter(|value| !value.is_empty());
    let home = ProcessSources::new(FileTrust::Read).home();
    let named = explicit.map(Path::to_owned).or(variable.map(PathBuf::from));
    choose(
        named,
        &[
            Some(PathBuf::from(SYSTEM)),
            home.map(|home| home.join(PERSONAL)),
        ],
    )
}

/// Reads the file, judges who can change it, and compiles it with the process environment.
pub fn load(path: &Path, trust: FileTrust) -> Result<Config, ConfigError> {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let (text, distrusted) = trust::read(&path, MAX_BYTES).map_err(|error| {
        let message = match error.kind() {
            io::ErrorKind::NotFound => "there is no such file",
            io::ErrorKind::InvalidData => "the file is not UTF-8 text",
            io::ErrorKind::FileTooLarge => "the file is larger than 64 MiB",
            _ => "the file cannot be read",
        };
        ConfigError::io(Problem::of_file(&path, message), error)
    })?;
    let mut problems: Vec<Problem> = distrusted
        .iter()
        .map(|distrust| Problem::of_file(&path, distrust.to_string()))
        .collect();
    let compiled = compile(&text, &path, &ProcessSources::new(trust));
    if let Ok(config) = &compiled {
        problems.extend(judge_tls(config));
    }
    match (compiled, trust) {
        (Ok(compiled), FileTrust::Read) => Ok(warned(compiled, &path, &problems)),
        (Ok(compiled), FileTrust::Run) if problems.is_empty() => Ok(warned(compiled, &path, &[])),
        (Ok(_), FileTrust::Run) => Err(ConfigError::new(problems)),
        (Err(error), FileTrust::Read) => Err(error),
        (Err(error), FileTrust::Run) => {
            problems.extend_from_slice(error.problems());
            Err(ConfigError::new(problems))
        }
    }
}

fn choose(named: Option<PathBuf>, places: &[Option<PathBuf>]) -> Result<PathBuf, ConfigError> {
    if let Some(named) = named {
        return if named.exists() {
            Ok(named)
        } else {
            Err(ConfigError::new(vec![Problem::of_file(
                &named,
                "there is no such file",
            )]))
        };
    }
    let places = || places.iter().flatten();
    places()
        .find(|place| place.exists())
        .cloned()
        .ok_or_else(|| {
            let missing = |place: &PathBuf| Problem::of_file(place, "there is no such file");
            let mut problems: Vec<Problem> = places().map(missing).collect();
            if let Some(last) = problems.last_mut() {
                last.suggestion =
                    Some("`--config FILE`, or a first file by `clawsec init`".to_owned());
            }
            ConfigError::new(problems)
        })
}

/// The certificate and its key decide who clawsec is; they are guarded like the configuration.
fn judge_tls(config: &Config) -> Vec<Problem> {
    let Some(tls) = &config.gateway.tls else {
        return Vec::new();
    };
    let mut problems = Vec::new();
    let mut files = match &tls.acme {
        None => vec![
            ("gateway.tls.cert", &tls.cert),
            ("gateway.tls.key", &tls.key),
        ],
        // Made by the first start.
        Some(_) if !tls.cert.exists() => Vec::new(),
        Some(_) => vec![("gateway.tls.acme.dir", &tls.cert)],
    };
    let authority = tls.acme.as_ref().and_then(|acme| acme.ca.as_ref());
    files.extend(authority.map(|ca| ("gateway.tls.acme.ca", ca)));
    files.extend(
        tls.client_ca
            .as_ref()
            .map(|ca| ("gateway.tls.clientCa", ca)),
    );
    for (key, file) in files {
        let messages = match trust::judge(file) {
            Ok(distrusted) => distrusted.iter().map(ToString::to_string).collect(),
            Err(error) => vec![format!("{}: {}", file.display(), error.kind())],
        };
        problems.extend(messages.into_iter().map(|message| Problem {
            path: key.to_owned(),
            ..Problem::of_file(&config.path, message)
        }));
    }
    problems
}

fn warned(mut config: Config, path: &Path, problems: &[Problem]) -> Config {
    use std::os::unix::fs::MetadataExt;

    let others_read = path
        .metadata()
        .is_ok_and(|metadata| metadata.mode() & 0o044 != 0);
    if others_read && !config.literal_secrets.is_empty() {
        config.warnings.push(Warning {
            path: config.literal_secrets.join(", "),
            message: format!(
                "a secret stands in a file that others can read: chmod 600 {}, or use ${{VAR}}",
                path.display()
            ),
        });
    }
    config
        .warnings
        .extend(problems.iter().map(|problem| Warning {
            path: problem.path.clone(),
            message: problem.message.clone(),
        }));
    config
}

const SYSTEM: &str = "/etc/clawsec/clawsec.json";
const PERSONAL: &str = ".clawdbot/clawsec.json";

/// Room for a million prefixes; beyond it a file is not a configuration.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_is_not_searched_for_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path().join("a.json");
        let gone = folder.path().join("b.json");
        std::fs::write(&here, "{}").unwrap();
        let places = [Some(gone.clone()), None, Some(here.clone())];
        assert_eq!(choose(None, &places).unwrap(), here);
        assert_eq!(choose(Some(here.clone()), &[]).unwrap(), here);
        let error = choose(Some(gone.clone()), &places).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("{}: there is no such file", gone.display())
        );
        let error = choose(None, &[Some(gone)]).unwrap_err().to_string();
        assert!(error.contains("clawsec init"), "{error}");
    }
}
