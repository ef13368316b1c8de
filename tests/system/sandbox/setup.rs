//! A provider for a test: its configuration, its user, its docker daemon.

use std::collections::BTreeMap;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use clawsec_user::config::{SandboxConfig, SandboxProvider};
use clawsec_user::policy::{
    AddressPolicy, Credentials, KeyDigest, People, Permit, Policy, PrincipalSpec, Request,
    RequestFacts, RequestLimit, Scope, ToolName, ToolRules, UnknownMethods,
};
use clawsec_user::sandbox::{CancellationToken, Execution, Job, JobCommand, Sandbox, SandboxError};

use crate::system::docker::{self as dockerd, chain};

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

pub(super) async fn open_pooled_as(provider: SandboxProvider, instance: &str) -> Sandbox {
    let mut config = config(provider);
    if provider == SandboxProvider::Docker {
        config.docker_socket = dockerd::socket_with_image().await;
    } else {
        make_user();
    }
    config.pool = 2;
    Sandbox::open(&config, instance).await.unwrap()
}

pub(super) fn config(provider: SandboxProvider) -> SandboxConfig {
    SandboxConfig {
        provider,
        image: Some(dockerd::IMAGE.into()),
        memory_bytes: 64 << 20,
        pids: 32,
        timeout: Duration::from_mins(1),
        output_bytes: 64 * 1024,
        user: USER.into(),
        launcher: crate::system::daemon::clawsec(),
        pool: 0,
        ..SandboxConfig::defaults(true)
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

/// A permit as the daemon gets one: from a policy's decision.
pub(super) fn permit() -> Permit {
    permit_of("tester")
}

pub(super) fn permit_of(principal: &str) -> Permit {
    let spec = PrincipalSpec {
        id: principal.into(),
        digest: KeyDigest([1; 32]),
        path: "auth".into(),
        scopes: vec![Scope::Admin],
        user: None,
        groups: None,
        agents: None,
        tools: ToolRules::default(),
        not_before: None,
        not_after: None,
    };
    let policy = Policy {
        generation: 1,
        addresses: AddressPolicy::default(),
        credentials: Credentials::new([spec]),
        people: People::default(),
        tools: ToolRules::default(),
        sandboxed: ToolRules::new("sandbox.tools", None, &["exec".into()], &[]).unwrap(),
        agents: Vec::new(),
        default_agent: "main".into(),
        unknown_methods: UnknownMethods::Admin,
        limit: RequestLimit {
            enabled: false,
            requests: 1,
            window_ms: 1,
        },
    };
    let principal = policy
        .credentials
        .authenticate(KeyDigest([1; 32]), 0)
        .unwrap();
    let facts = RequestFacts::new(Request::Tool(ToolName::new("exec")));
    policy.decide(&principal, facts).unwrap()
}

pub(super) async fn shell(sandbox: &Sandbox, line: &str) -> Execution {
    run(sandbox, job(JobCommand::Shell(line.into()))).await
}

pub(super) async fn run(sandbox: &Sandbox, job: Job) -> Execution {
    let command = job.command.clone();
    assert!(
        sandbox.warm_up(Duration::from_secs(30)).await,
        "no container stands ready"
    );
    match sandbox.run(permit(), job, CancellationToken::new()).await {
        Ok(execution) => execution,
        Err(error) => panic!("{command:?}: {}", chain(&error)),
    }
}

pub(super) fn job(command: JobCommand) -> Job {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    Job {
        id: format!("t{}", NEXT.fetch_add(1, Ordering::Relaxed)),
        agent: "main".into(),
        command,
        env: BTreeMap::new(),
        workdir: None,
        workspace: None,
        stdin: Vec::new(),
        timeout: Duration::from_secs(20),
    }
}
