//! A docker daemon whose replies are changed on their way back: cut, doubled, with bits flipped, with
//! noise in between. Every execution ends, with a result or an error; nothing panics or stays.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use clawsec_user::config::SandboxProvider;
use clawsec_user::sandbox::{CancellationToken, JobCommand, Sandbox};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use super::setup::config;
use super::{job, permit};
use crate::system::docker;

/// Each that is answered wrongly takes seconds to end; in full: `CLAWSEC_DOCKER_LIES=80`.
const EXECUTIONS: usize = 5;
const INSTANCE: &str = "clawsec-liar";
/// Longer than a job's own time and the time that docker has for an answer, together.
const PATIENCE: Duration = Duration::from_mins(1);

#[tokio::test(flavor = "multi_thread")]
async fn a_docker_that_lies_is_an_error_and_never_a_hang() {
    let real = docker::socket_with_image().await;
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("docker.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let lies = Arc::new(AtomicBool::new(false));
    let changed = Arc::new(AtomicU64::new(0));
    {
        let (lies, changed, real) = (Arc::clone(&lies), Arc::clone(&changed), real.clone());
        tokio::spawn(async move {
            let mut number = 0;
            while let Ok((client, _)) = listener.accept().await {
                number += 1;
                let Ok(daemon) = UnixStream::connect(&real).await else {
                    return;
                };
                tokio::spawn(relay(
                    client,
                    daemon,
                    number,
                    Arc::clone(&lies),
                    Arc::clone(&changed),
                ));
            }
        });
    }
    let mut settings = config(SandboxProvider::Docker);
    settings.docker_socket = socket;
    let sandbox = Sandbox::open(&settings, INSTANCE).await.unwrap();
    let once = async |seconds: u64| {
        let mut job = job(JobCommand::Shell("echo out".into()));
        job.timeout = Duration::from_secs(seconds);
        let run = sandbox.run(permit(), job, CancellationToken::new());
        timeout(PATIENCE, run).await.expect("an execution ends")
    };
    assert_eq!(once(20).await.unwrap().exit_code, Some(0));

    lies.store(true, Ordering::Relaxed);
    let (mut results, mut errors) = (0, 0);
    let executions = std::env::var("CLAWSEC_DOCKER_LIES").ok();
    let executions = executions.map_or(EXECUTIONS, |text| text.parse().expect("a number"));
    for _ in 0..executions {
        match once(3).await {
            Ok(_) => results += 1,
            Err(_) => errors += 1,
        }
    }
    lies.store(false, Ordering::Relaxed);
    let changed = changed.load(Ordering::Relaxed);
    println!("{changed} replies changed: {results} results, {errors} errors");
    assert!(
        changed > 1 && errors > 0,
        "{changed} replies changed, {errors} errors"
    );

    assert_eq!(
        once(20).await.unwrap().exit_code,
        Some(0),
        "and then it works"
    );
    assert!(sandbox.close(PATIENCE).await, "everything has ended");
    // What could not be removed while the replies were wrong goes with the next look.
    let again = Sandbox::open(&settings, INSTANCE).await.unwrap();
    again.remove_orphans().await.unwrap();
    let filter = format!("label=clawsec.instance={INSTANCE}");
    let left = docker::docker(&real, &["ps", "--all", "--quiet", "--filter", &filter]);
    assert_eq!(left, "", "left behind");
    assert!(again.close(PATIENCE).await);
}

/// Passes bytes on, and changes one reply in four.
async fn relay(
    client: UnixStream,
    daemon: UnixStream,
    number: u64,
    lies: Arc<AtomicBool>,
    changed: Arc<AtomicU64>,
) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_daemon, mut to_daemon) = daemon.into_split();
    let asking = tokio::spawn(async move {
        // One side that closes ends the other.
        let _ended = tokio::io::copy(&mut from_client, &mut to_daemon).await;
    });
    let mut random = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random >> 1).unwrap_or(0) % below
    };
    let mut bytes = vec![0; 16 * 1024];
    while let Ok(length @ 1..) = from_daemon.read(&mut bytes).await {
        let mut reply = bytes[..length].to_vec();
        if lies.load(Ordering::Relaxed) && next(4) == 0 {
            changed.fetch_add(1, Ordering::Relaxed);
            match next(5) {
                0 => reply.truncate(length / 2),
                1 => reply.extend_from_within(..),
                2 => {
                    let place = next(length);
                    reply[place] ^= 1 << next(8);
                }
                3 => {
                    let place = next(length);
                    reply.splice(place..place, [0, 0xff, b'{', b'\r', b'\n', 0x80]);
                }
                // Nothing, and the end.
                _ => break,
            }
        }
        if to_client.write_all(&reply).await.is_err() {
            break;
        }
    }
    asking.abort();
}
