//! The default image, built on this host without any registry: a static busybox and nothing else,
//! or a folder that the operator names.
//!
//! Invariant: it runs only when a person asks for it (`clawsec sandbox image`) or a test does;
//! no start of the daemon builds or pulls anything.

use std::io;
use std::path::Path;
use std::process::Stdio;

use bollard::query_parameters::{CreateImageOptionsBuilder, RemoveImageOptions};
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStdout};

use super::SandboxError;
use super::docker::connect;

/// Builds the image `name` (`repository[:tag]`), of `folder` or else of busybox; returns its id.
pub async fn build(
    socket: &Path,
    name: &str,
    folder: Option<&Path>,
) -> Result<String, SandboxError> {
    let (repository, tag) = split_name(name).ok_or(SandboxError::InvalidJob {
        field: "image name",
        problem: "is not `repository` or `repository:tag`",
    })?;
    let client = connect(socket).await?;
    let options = CreateImageOptionsBuilder::new()
        .from_src("-")
        .repo(repository)
        .tag(tag)
        .message("clawsec's sandbox, made on this host")
        .build();
    let (body, packing) = match folder {
        None => (bollard::body_full(busybox_archive().await?.into()), None),
        Some(folder) => {
            let mut packing = pack(folder)?;
            let archive = packing.stdout.take().ok_or(SandboxError::TaskLost)?;
            (bollard::body_try_stream(chunks(archive)), Some(packing))
        }
    };
    let mut progress = client.create_image(Some(options), Some(body), None);
    while let Some(step) = progress.next().await {
        step.map_err(SandboxError::docker("import the image"))?;
    }
    if let Some(mut packing) = packing {
        let status = packing.wait().await.map_err(|source| SandboxError::Wait {
            program: TAR.into(),
            source,
        })?;
        if !status.success() {
            // Half a file system must not stay under the name.
            let removed = client.remove_image(name, None::<RemoveImageOptions>, None);
            drop(removed.await);
            let source = io::Error::other(format!("{TAR} ended with {status}"));
            return Err(SandboxError::file("pack", folder.unwrap_or(Path::new("")))(
                source,
            ));
        }
    }
    let image = client
        .inspect_image(name)
        .await
        .map_err(SandboxError::docker("look for the image it imported"))?;
    Ok(image.id.unwrap_or_default())
}

/// The folder as a stream, its files root's whoever owns them here.
fn pack(folder: &Path) -> Result<Child, SandboxError> {
    let shell = folder.join("bin/sh");
    // A folder given by mistake is more likely than a root file system without a shell.
    std::fs::symlink_metadata(&shell).map_err(SandboxError::file("find the shell", &shell))?;
    tokio::process::Command::new(TAR)
        .arg("--create")
        .arg("--directory")
        .arg(folder)
        .args([
            "--owner=0",
            "--group=0",
            "--numeric-owner",
            "--one-file-system",
            ".",
        ])
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| SandboxError::Spawn {
            program: TAR.into(),
            source,
        })
}

fn chunks(archive: ChildStdout) -> impl Stream<Item = io::Result<Bytes>> {
    futures_util::stream::try_unfold(archive, |mut archive| async move {
        let mut chunk = BytesMut::with_capacity(CHUNK_BYTES);
        let length = archive.read_buf(&mut chunk).await?;
        Ok((length > 0).then(|| (chunk.freeze(), archive)))
    })
}

async fn busybox_archive() -> Result<Vec<u8>, SandboxError> {
    let busybox = std::fs::read(BUSYBOX).map_err(SandboxError::file(
        "read (apt-get install busybox-static)",
        BUSYBOX,
    ))?;
    if !is_static_elf(&busybox) {
        let source = io::Error::new(io::ErrorKind::InvalidData, "it is linked dynamically");
        return Err(SandboxError::file(
            "use (apt-get install busybox-static)",
            BUSYBOX,
        )(source));
    }
    let applets = applets().await?;
    Ok(root_file_system(&busybox, &applets))
}

/// `a/b:c` → (`a/b`, `c`); a port in a registry's name is not a tag, and a digest cannot be given.
fn split_name(name: &str) -> Option<(&str, &str)> {
    if name.is_empty() || name.contains(['@', ' ', '\0']) {
        return None;
    }
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => {
            (!repository.is_empty() && !tag.is_empty()).then_some((repository, tag))
        }
        _ => Some((name, "latest")),
    }
}

async fn applets() -> Result<Vec<String>, SandboxError> {
    let output = tokio::process::Command::new(BUSYBOX)
        .arg("--list")
        .env_clear()
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|source| SandboxError::Spawn {
            program: BUSYBOX.into(),
            source,
        })?;
    let is_name = |name: &&str| {
        !name.is_empty() && *name != "busybox" && !name.contains('/') && name.len() < 64
    };
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter(is_name).map(str::to_owned).collect())
}

fn root_file_system(busybox: &[u8], applets: &[String]) -> Vec<u8> {
    let mut archive = Archive::default();
    for dir in ["bin/", "etc/", "usr/", "proc/", "sys/", "dev/", "run/"] {
        archive.entry(dir, Kind::Dir, 0o755, b"");
    }
    archive.entry("tmp/", Kind::Dir, 0o1777, b"");
    archive.entry("workspace/", Kind::Dir, 0o1777, b"");
    archive.entry("bin/busybox", Kind::File, 0o755, busybox);
    for applet in applets {
        archive.entry(&format!("bin/{applet}"), Kind::Link("busybox"), 0o777, b"");
    }
    // Scripts say `#!/usr/bin/env`.
    archive.entry("usr/bin", Kind::Link("../bin"), 0o777, b"");
    archive.entry("etc/passwd", Kind::File, 0o644, PASSWD);
    archive.entry("etc/group", Kind::File, 0o644, GROUP);
    archive.finish()
}

/// A tar archive in the ustar form, owned by root, at time 0 so that equal content is equal bytes.
#[derive(Default)]
struct Archive(Vec<u8>);

#[derive(Clone, Copy)]
enum Kind<'a> {
    File,
    Dir,
    Link(&'a str),
}

impl Archive {
    fn entry(&mut self, name: &str, kind: Kind<'_>, mode: u32, content: &[u8]) {
        let (flag, target) = match kind {
            Kind::File => (b'0', ""),
            Kind::Link(target) => (b'2', target),
            Kind::Dir => (b'5', ""),
        };
        let mut header = Vec::with_capacity(BLOCK);
        field(&mut header, name.as_bytes(), 100);
        field(&mut header, format!("{mode:07o}").as_bytes(), 8);
        field(&mut header, b"0000000", 8);
        field(&mut header, b"0000000", 8);
        field(
            &mut header,
            format!("{:011o}", content.len()).as_bytes(),
            12,
        );
        field(&mut header, b"00000000000", 12);
        // The checksum counts its own field as blanks.
        field(&mut header, b"        ", 8);
        header.push(flag);
        field(&mut header, target.as_bytes(), 100);
        field(&mut header, b"ustar\x0000", 8);
        field(&mut header, b"root", 32);
        field(&mut header, b"root", 32);
        header.resize(BLOCK, 0);
        let sum: u32 = header.iter().copied().map(u32::from).sum();
        let sum = format!("{sum:06o}\0 ");
        header.splice(CHECKSUM..CHECKSUM + 8, sum.bytes());
        self.0.extend_from_slice(&header);
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 2 * BLOCK, 0);
        self.0
    }
}

fn field(header: &mut Vec<u8>, value: &[u8], width: usize) {
    let end = header.len() + width;
    header.extend(value.iter().take(width));
    header.resize(end, 0);
}

/// A 64-bit little-endian ELF without an interpreter.
fn is_static_elf(file: &[u8]) -> bool {
    let number = |at: usize, width: usize| -> Option<usize> {
        let bytes = file.get(at..at + width)?;
        Some(
            bytes
                .iter()
                .rev()
                .fold(0, |sum, &byte| (sum << 8) | usize::from(byte)),
        )
    };
    let has_interpreter = || -> Option<bool> {
        let (table, size, count) = (number(0x20, 8)?, number(0x36, 2)?, number(0x38, 2)?);
        for index in 0..count {
            if number(table.checked_add(index * size)?, 4)? == PT_INTERP {
                return Some(true);
            }
        }
        Some(false)
    };
    file.starts_with(b"\x7fELF\x02\x01") && has_interpreter() == Some(false)
}

const TAR: &str = "tar";
const CHUNK_BYTES: usize = 64 * 1024;
const BUSYBOX: &str = "/bin/busybox";
const BLOCK: usize = 512;
const CHECKSUM: usize = 148;
const PT_INTERP: usize = 3;
const PASSWD: &[u8] = b"root:x:0:0:root:/:/bin/false\n\
    nobody:x:65534:65534:nobody:/workspace:/bin/sh\n";
const GROUP: &[u8] = b"root:x:0:\nnogroup:x:65534:\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_split_into_repository_and_tag() {
        let rows = [
            ("clawsec/sandbox", Some(("clawsec/sandbox", "latest"))),
            ("clawsec/sandbox:v1", Some(("clawsec/sandbox", "v1"))),
            ("host:5000/box", Some(("host:5000/box", "latest"))),
            ("host:5000/box:2", Some(("host:5000/box", "2"))),
            ("box@sha256:00", None),
            ("box:", None),
            (":x", None),
            ("", None),
        ];
        for (name, expected) in rows {
            assert_eq!(split_name(name), expected, "{name}");
        }
    }

    #[test]
    fn the_archive_is_one_that_tar_reads() {
        let archive = root_file_system(b"content", &["sh".into()]);
        assert_eq!(archive.len() % BLOCK, 0);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.tar");
        std::fs::write(&file, &archive).unwrap();
        let output = std::process::Command::new("tar")
            .arg("-tvf")
            .arg(&file)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let listing = String::from_utf8(output.stdout).unwrap();
        for expected in [
            "drwxrwxrwt root/root",
            "bin/sh -> busybox",
            "workspace/",
            "etc/passwd",
        ] {
            assert!(listing.contains(expected), "{expected} in {listing}");
        }
    }

    #[test]
    fn a_dynamic_program_is_told_from_a_static_one() {
        let mut elf = vec![0; 0x78];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[0x20] = 0x40;
        elf[0x36] = 0x38;
        elf[0x38] = 1;
        elf[0x40] = 1;
        assert!(is_static_elf(&elf));
        elf[0x40] = 3;
        assert!(!is_static_elf(&elf));
        assert!(!is_static_elf(b"#!/bin/sh"));
        assert!(!is_static_elf(&elf[..0x42]));
    }
}
