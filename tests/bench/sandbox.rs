//! `cargo xtask bench sandbox`: what one execution costs, beside the bare programs, in one run.
//!
//! Every way runs the same command once a round, in turn, so that what the machine does meanwhile
//! meets all alike. The time is from the call to the end of the command; one that stands
//! ready again, and one that is removed, are waited for outside it.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clawsec_user::config::{self, FileTrust, SandboxConfig, SandboxProvider};
use clawsec_user::policy::{Policy, ToolName};
use clawsec_user::sandbox::{CancellationToken, Job, JobCommand, Sandbox, build_image};
use serde_json::{Value, json};

fn main() -> anyhow::Result<()> {
    let Some(out) = std::env::var_os("CLAWSEC_BENCH_OUT") else {
        xtask::say("run by `cargo xtask bench sandbox`");
        return Ok(());
    };
    let runtime = tokio::runtime::Runtime::new().context("start the runtime")?;
    runtime.block_on(measure(out.as_ref()))
}

async fn measure(out: &Path) -> anyhow::Result<()> {
    let socket = Path::new("/var/run/docker.sock");
    build_image(socket, IMAGE, None)
        .await
        .context("build the image; is dockerd running?")?;
    let policy = policy()?;
    let config = |provider, pool| SandboxConfig {
        provider,
        image: Some(IMAGE.to_owned()),
        pool,
        launcher: std::env::var_os("CLAWSEC_BIN").unwrap_or_default().into(),
        ..SandboxConfig::defaults(true)
    };
    let open = async |provider, pool| {
        let name = format!("bench-{}-{pool}", SandboxProvider::as_str(provider));
        let sandbox = Sandbox::open(&config(provider, pool), &name).await;
        sandbox.with_context(|| format!("open {provider:?}"))
    };
    let pooled = open(SandboxProvider::Docker, 2).await?;
    let cold = open(SandboxProvider::Docker, 0).await?;
    let ready = open(SandboxProvider::Native, 2).await?;
    let native = open(SandboxProvider::Native, 0).await?;
    let firejail = open(SandboxProvider::Firejail, 0).await;
    let none = open(SandboxProvider::None, 0).await;
    if !pooled.warm_up(Duration::from_mins(1)).await {
        bail!("no container stands ready");
    }
    let running = Bare::start()?;

    let only = std::env::var("CLAWSEC_BENCH_ONLY").unwrap_or_default();
    let mut ways = vec![
        Way::new("docker, pool", By::Clawsec(pooled)),
        Way::new("docker exec, bare", By::Program(Bare::exec())),
        Way::new("docker run, bare, same flags", By::Program(running.run())),
        Way::new("docker, no pool", By::Clawsec(cold)),
        Way::new("native, pool", By::Clawsec(ready)),
        Way::new("native, no pool", By::Clawsec(native)),
        Way::new("bwrap, bare", By::Program(bwrap())),
    ];
    for (name, sandbox) in [("firejail", firejail), ("none", none)] {
        match sandbox {
            Ok(sandbox) => ways.push(Way::new(name, By::Clawsec(sandbox))),
            Err(error) => xtask::say(&format!("left out: {error:#}")),
        }
    }
    ways.retain(|way| way.name.contains(&only));
    for round in 0..=ROUNDS {
        // Each way comes after each other as often: docker is still at work when it has answered.
        ways.rotate_left(1);
        for way in &mut ways {
            tokio::time::sleep(SETTLE).await;
            let took = way.once(&policy, round).await?;
            // The first is for caches.
            if round > 0 {
                way.took.push(took);
            }
        }
    }
    report(&mut ways, out)?;
    for way in ways {
        if let By::Clawsec(sandbox) = way.by {
            sandbox.close(Duration::from_secs(20)).await;
        }
    }
    Ok(())
}

struct Way {
    name: &'static str,
    by: By,
    took: Vec<Duration>,
}

enum By {
    Clawsec(Sandbox),
    Program(Vec<String>),
}

impl Way {
    fn new(name: &'static str, by: By) -> Self {
        Self {
            name,
            by,
            took: Vec::new(),
        }
    }

    async fn once(&self, policy: &Policy, round: usize) -> anyhow::Result<Duration> {
        match &self.by {
            By::Program(argv) => {
                let started = Instant::now();
                let status = Command::new(&argv[0])
                    .args(&argv[1..])
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .status()
                    .with_context(|| format!("run {}", self.name))?;
                let took = started.elapsed();
                if !status.success() {
                    bail!("{} ended with {status}", self.name);
                }
                Ok(took)
            }
            By::Clawsec(sandbox) => {
                let permit = policy
                    .decide_for_operator(&ToolName::new("exec"), Some("main".to_owned()))
                    .map_err(|denial| anyhow::anyhow!("exec is denied by {}", denial.rule))?;
                let job = Job {
                    id: format!("round-{round}"),
                    agent: "main".to_owned(),
                    command: JobCommand::Argv(COMMAND.map(str::to_owned).to_vec()),
                    env: std::collections::BTreeMap::new(),
                    workdir: None,
                    workspace: None,
                    stdin: Vec::new(),
                    timeout: Duration::from_secs(20),
                };
                let started = Instant::now();
                let execution = sandbox.run(permit, job, CancellationToken::new()).await;
                let took = started.elapsed();
                let execution = execution.with_context(|| format!("run in {}", self.name))?;
                if execution.exit_code != Some(0) {
                    bail!("{}: {execution:?}", self.name);
                }
                while sandbox.health().await?.running > 0 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                sandbox.warm_up(Duration::from_secs(30)).await;
                Ok(took)
            }
        }
    }

    fn quantile_ms(&mut self, part: f64) -> f64 {
        self.took.sort_unstable();
        let last = self.took.len().saturating_sub(1);
        let index = (f64::from(u32::try_from(last).unwrap_or(0)) * part).round();
        let nearest = self
            .took
            .iter()
            .enumerate()
            .find(|(at, _)| (f64::from(u32::try_from(*at).unwrap_or(0)) - index).abs() < 0.5);
        nearest.map_or(0.0, |(_, took)| took.as_secs_f64() * 1000.0)
    }
}

/// A container that runs, with the flags of one of clawsec's own.
struct Bare {
    flags: Vec<String>,
}

impl Bare {
    fn start() -> anyhow::Result<Self> {
        let listed = docker(&[
            "ps",
            "-q",
            "--filter",
            "label=clawsec.instance=bench-docker-2",
        ])?;
        let idle = listed
            .lines()
            .next()
            .context("an idle container")?
            .to_owned();
        let inspected: Value = serde_json::from_str(&docker(&["inspect", &idle])?)?;
        let flags = flags(&inspected[0]);
        docker(&["rm", "-f", NAME]).ok();
        let mut argv = vec!["run", "--detach", "--name", NAME];
        argv.extend(flags.iter().map(String::as_str));
        argv.extend([IMAGE, "sleep", "3600"]);
        docker(&argv)?;
        Ok(Self { flags })
    }

    fn exec() -> Vec<String> {
        let mut argv = ["docker", "exec", NAME].map(str::to_owned).to_vec();
        argv.extend(COMMAND.map(str::to_owned));
        argv
    }

    fn run(&self) -> Vec<String> {
        let mut argv = ["docker", "run", "--rm"].map(str::to_owned).to_vec();
        argv.extend(self.flags.clone());
        argv.push(IMAGE.to_owned());
        argv.extend(COMMAND.map(str::to_owned));
        argv
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        docker(&["rm", "-f", NAME]).ok();
    }
}

/// What `docker run` is told to get the very container that docker says clawsec has made.
fn flags(container: &Value) -> Vec<String> {
    let host = &container["HostConfig"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut flags = vec![
        "--init".to_owned(),
        "--read-only".to_owned(),
        "--cap-drop=ALL".to_owned(),
        format!("--network={}", text(&host["NetworkMode"])),
        format!("--ipc={}", text(&host["IpcMode"])),
        format!("--cgroupns={}", text(&host["CgroupnsMode"])),
        format!("--log-driver={}", text(&host["LogConfig"]["Type"])),
        format!("--user={}", text(&container["Config"]["User"])),
        format!("--workdir={}", text(&container["Config"]["WorkingDir"])),
        format!("--memory={}", host["Memory"]),
        format!("--memory-swap={}", host["MemorySwap"]),
        format!("--pids-limit={}", host["PidsLimit"]),
        format!("--oom-score-adj={}", host["OomScoreAdj"]),
        "--cpus=1".to_owned(),
    ];
    for option in host["SecurityOpt"].as_array().into_iter().flatten() {
        let option = text(option);
        match option.strip_prefix("seccomp=") {
            // The command line reads the profile from a file.
            Some(profile) if std::fs::write(PROFILE, profile).is_ok() => {
                flags.push(format!("--security-opt=seccomp={PROFILE}"));
            }
            _ => flags.push(format!("--security-opt={option}")),
        }
    }
    for (path, options) in host["Tmpfs"].as_object().into_iter().flatten() {
        flags.push(format!("--tmpfs={path}:{}", text(options)));
    }
    for limit in host["Ulimits"].as_array().into_iter().flatten() {
        flags.push(format!(
            "--ulimit={}={}:{}",
            text(&limit["Name"]),
            limit["Soft"],
            limit["Hard"]
        ));
    }
    flags
}

/// The namespaces and the view of files that `native` has, and nothing of its rest.
fn bwrap() -> Vec<String> {
    let mut argv: Vec<String> = [
        "bwrap",
        "--unshare-all",
        "--die-with-parent",
        "--new-session",
        "--clearenv",
        "--setenv",
        "PATH",
        "/usr/bin:/bin",
        "--ro-bind",
        "/usr",
        "/usr",
        "--proc",
        "/proc",
        "--dev",
        "/dev",
        "--tmpfs",
        "/tmp",
        "--tmpfs",
        "/run",
        "--tmpfs",
        "/workspace",
        "--chdir",
        "/workspace",
    ]
    .map(str::to_owned)
    .to_vec();
    for name in ["bin", "sbin", "lib", "lib32", "lib64"] {
        let path = format!("/{name}");
        if let Ok(target) = std::fs::read_link(&path) {
            argv.extend(["--symlink".to_owned(), target.display().to_string(), path]);
        } else if Path::new(&path).is_dir() {
            argv.extend(["--ro-bind".to_owned(), path.clone(), path]);
        }
    }
    argv.extend(COMMAND.map(str::to_owned));
    argv
}

fn report(ways: &mut [Way], out: &Path) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    xtask::say(&format!("{:<32} {:>8} {:>8}", "milliseconds", "p50", "p90"));
    for way in ways.iter_mut() {
        let (p50, p90) = (way.quantile_ms(0.5), way.quantile_ms(0.9));
        xtask::say(&format!("{:<32} {p50:>8.1} {p90:>8.1}", way.name));
        rows.push(
            json!({ "way": way.name, "p50_ms": p50, "p90_ms": p90, "rounds": way.took.len() }),
        );
    }
    let mut p50 = |name: &str| {
        let way = ways.iter_mut().find(|way| way.name == name);
        way.map_or(f64::NAN, |way| way.quantile_ms(0.5))
    };
    let (pool, exec) = (p50("docker, pool"), p50("docker exec, bare"));
    let (run, native, bwrap) = (
        p50("docker run, bare, same flags"),
        p50("native, pool"),
        p50("bwrap, bare"),
    );
    let aims = [
        (
            "docker with the pool, of a bare docker exec",
            pool / exec,
            "at most 1.3",
            pool / exec <= 1.3,
        ),
        (
            "docker run, of docker with the pool",
            run / pool,
            "at least 3",
            run / pool >= 3.0,
        ),
        (
            "native with the pool, of a bare bwrap",
            native / bwrap,
            "at most 1.5",
            native / bwrap <= 1.5,
        ),
    ];
    for (what, ratio, wanted, met) in aims {
        let word = if met { "met" } else { "MISSED" };
        xtask::say(&format!("{what}: {ratio:.2} ({wanted}), {word}"));
        rows.push(json!({ "aim": what, "ratio": ratio, "wanted": wanted, "met": met }));
    }
    if let Some(folder) = out.parent() {
        std::fs::create_dir_all(folder).context("make the folder of the results")?;
    }
    let text = serde_json::to_string_pretty(&rows)?;
    std::fs::write(out, text).with_context(|| format!("write {}", out.display()))
}

/// A permit can only come of a policy; this is the smallest.
fn policy() -> anyhow::Result<Policy> {
    let folder = tempfile::tempdir().context("make a folder")?;
    let path = folder.path().join("clawsec.json");
    let document = json!({
        "gateway": { "listen": ["127.0.0.1:8443"], "tls": { "enabled": false } },
        "security": {
            "auth": { "type": "apiKey", "key": "a-key-of-the-benchmark-of-no-use" },
            "network": { "allowedIPs": ["127.0.0.0/8"] },
            "sandbox": { "enabled": true },
        },
    });
    std::fs::write(&path, document.to_string()).context("write the configuration")?;
    Ok(config::load(&path, FileTrust::Read)?.policy)
}

fn docker(arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("docker")
        .args(arguments)
        .output()
        .context("run docker")?;
    if !output.status.success() {
        bail!("docker: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

const IMAGE: &str = "clawsec-bench/sandbox";
const NAME: &str = "clawsec-bench-bare";
const PROFILE: &str = "/tmp/clawsec-bench-seccomp.json";
const COMMAND: [&str; 3] = ["sh", "-c", "true"];
const ROUNDS: usize = 40;
const SETTLE: Duration = Duration::from_millis(150);
