//! The package on a Debian 12 of its own, under systemd, in qemu: installed, started, upgraded,
//! hung, killed, removed.
//!
//! The system is debootstrap's, kept in `target/tools`; the kernel is the vm tier's. It boots from
//! memory, into a tmpfs, since a sandbox cannot change its root in an initramfs.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use xtask::{root, say};

use super::tree;
use crate::setup::run as step;
use crate::tiers::need;
use crate::vm;

const INCLUDED: &str = "systemd,systemd-sysv,iproute2,curl,passwd,procps,kmod,busybox-static";

/// Booting takes half a minute on an emulated CPU, all steps three minutes.
const DEADLINE: Duration = Duration::from_mins(15);

/// Process 1, until systemd is.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox mount -t tmpfs -o size=3g root /mnt
for name in bin etc home lib lib64 opt root run sbin srv tmp usr var; do
  [ -e \"$name\" ] && /bin/busybox cp -a \"$name\" /mnt/
done
/bin/busybox mkdir -p /mnt/proc /mnt/sys /mnt/dev /mnt/mnt
/bin/busybox mount -t devtmpfs dev /mnt/dev
exec /bin/busybox switch_root /mnt /lib/systemd/systemd
";

const UNIT: &str = "[Unit]\nAfter=multi-user.target\n[Service]\nType=oneshot\n\
     ExecStart=/root/try.sh\nTimeoutStartSec=900\n[Install]\nWantedBy=multi-user.target\n";

/// Tries `package`; an error names the steps that failed.
pub(super) fn try_package(package: &Path) -> Result<()> {
    need("qemu-system-x86_64", "qemu-system-x86")?;
    need("cpio", "cpio")?;
    let system = system()?;
    let (kernel, veth) = vm::linux()?;
    tree::install(package, &system.join("root/clawsec.deb"), 0o644)?;
    tree::install(&veth, &system.join("root/veth.ko"), 0o644)?;
    tree::install(
        &root().join("xtask/src/dist/try.sh"),
        &system.join("root/try.sh"),
        0o755,
    )?;
    let folder = super::folder();
    let image = folder.join("guest.cpio");
    pack(&system, &image)?;

    say("trying the package on Debian 12 in qemu, about four minutes");
    let (console, told) = (folder.join("guest-console.log"), folder.join("guest.log"));
    boot(&kernel, &image, &console, &told)?;
    fs::remove_file(&image).context("remove the guest's image")?;
    judge(&fs::read_to_string(&told).unwrap_or_default())
        .with_context(|| format!("see {} and {}", told.display(), console.display()))
}

/// A Debian 12, made once.
fn system() -> Result<PathBuf> {
    let system = root().join("target/tools/debian-12");
    if system.join("init").exists() {
        return Ok(system);
    }
    need("debootstrap", "debootstrap")?;
    if system.exists() {
        fs::remove_dir_all(&system).context("remove half a system")?;
    }
    step(
        Command::new("debootstrap")
            .arg("--variant=minbase")
            .arg(format!("--include={INCLUDED}"))
            .arg("bookworm")
            .arg(&system),
    )?;
    let write = |name: &str, text: &str| {
        fs::write(system.join(name), text).with_context(|| format!("write the guest's {name}"))
    };
    write("etc/hostname", "guest\n")?;
    write("etc/systemd/system/try.service", UNIT)?;
    let wants = system.join("etc/systemd/system/multi-user.target.wants");
    fs::create_dir_all(&wants).context("make the guest's wants")?;
    std::os::unix::fs::symlink("../try.service", wants.join("try.service"))
        .context("enable the guest's unit")?;
    // The last: what is there is whole.
    let made = system.join("init.new");
    fs::write(&made, INIT).context("write the guest's init")?;
    tree::install(&made, &system.join("init"), 0o755)?;
    fs::remove_file(&made).context("remove init.new")?;
    Ok(system)
}

fn pack(system: &Path, image: &Path) -> Result<()> {
    // Caches and translations are a quarter of it.
    let script = "find . \\( -path './proc/*' -o -path './sys/*' -o -path './var/cache/apt/*' \
         -o -path './usr/share/locale/*' \\) -prune -o -print0 | cpio --quiet -0 -o -H newc";
    let output = fs::File::create(image).context("make the guest's image")?;
    let status = Command::new("sh")
        .args(["-c", script])
        .current_dir(system)
        .stdout(output)
        .status()
        .context("run cpio")?;
    ensure!(status.success(), "cpio failed");
    Ok(())
}

fn boot(kernel: &Path, image: &Path, console: &Path, told: &Path) -> Result<()> {
    let serial = |path: &Path| format!("file:{}", path.display());
    let mut child = Command::new("qemu-system-x86_64")
        .args(["-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", "6144"])
        .args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(image)
        .args([
            "-append",
            "console=ttyS0 rdinit=/init systemd.log_target=console panic=-1",
        ])
        .args(["-serial", &serial(console), "-serial", &serial(told)])
        .stdin(Stdio::null())
        .spawn()
        .context("start qemu")?;
    let began = std::time::Instant::now();
    while child.try_wait().context("wait for qemu")?.is_none() {
        if began.elapsed() > DEADLINE {
            child.kill().context("stop qemu")?;
            child.wait().context("wait for qemu")?;
            say("the guest was stopped: it took too long");
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// Prints each step, and fails if one did or the last was not reached.
fn judge(told: &str) -> Result<()> {
    let mut failed = Vec::new();
    let mut count = 0;
    let mut out = std::io::stdout();
    for line in told
        .lines()
        .filter_map(|line| line.trim_end().strip_prefix("try: "))
    {
        writeln!(out, "{line}").context("print a step")?;
        if let Some(name) = line.strip_prefix("FAILED ") {
            failed.push(name.to_owned());
        }
        count += u32::from(line.starts_with("ok "));
    }
    if !told.contains("try: done") {
        failed.push("the last step was not reached".to_owned());
    }
    if failed.is_empty() {
        say(&format!("the package: {count} steps, each as it should be"));
        return Ok(());
    }
    bail!("the package failed: {}", failed.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_step_or_a_missing_end_is_an_error() {
        assert!(judge("try: ok installs\r\ntry: done\r\n").is_ok());
        let failed = judge("try: ok a\ntry: FAILED starts\ntry: done").unwrap_err();
        assert!(failed.to_string().contains("starts"));
        let cut = judge("try: ok a\n").unwrap_err();
        assert!(cut.to_string().contains("not reached"));
    }
}
