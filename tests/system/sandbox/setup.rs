//! A provider for a test: its configuration, its user, its docker daemon.

use std::sync::Once;
use std::time::Duration;

use clawsec_user::config::{SandboxConfig, SandboxNetwork, SandboxProvider};
use clawsec_user::sandbox::{Sandbox, SandboxError};

use crate::system::docker as dockerd;

pub(super) const USER: &str = "clawsec-sbx";

pub(super) async fn open_as(
    provider: SandboxProvider,
    instance: &str,
) -> Result<Sandbox, SandboxError> {
    let mut config = config(provider);
    if provider == SandboxProvider::Docker {
        config.docker_socket = dockerd::socket_with_image().await;
    } else {
        make_user();
    }
    Sandbox::open(&config, instance).await
}

pub(super) fn config(provider: SandboxProvider) -> SandboxConfig {
    SandboxConfig {
        enabled: true,
        provider,
        image: Some(dockerd::IMAGE.into()),
        network: SandboxNetwork::None,
        memory_bytes: 64 << 20,
        cpu_millis: 1000,
        pids: 32,
        timeout: Duration::from_mins(1),
        output_bytes: 64 * 1024,
        concurrency: 4,
        user: USER.into(),
        launcher: crate::system::daemon::clawsec(),
        docker_socket: "/var/run/docker.sock".into(),
    }
}

pub(crate) fn make_user() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let known = std::process::Command::new("id").arg(USER).output().unwrap();
        if !known.status.success() {
            let home = format!("/home/{USER}");
            let made = std::process::Command::new("useradd")
                .args([
                    "--create-home",
                    "--home-dir",
                    &home,
                    "--shell",
                    "/usr/sbin/nologin",
                    USER,
                ])
                .status()
                .unwrap();
            assert!(made.success(), "useradd {USER}");
        }
    });
}
