//! The enforcer against a real interface: a veth pair between two network namespaces made here.
//!
//! The test's thread leaves the machine's network and mounts, so that nothing outside is touched
//! and everything is gone when it ends, however it ends.

use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clawsec_common::abi::SCHEMA;
use clawsec_user::config::XdpMode;
use clawsec_user::enforcer::{
    AttachedMode, Effect, Enforcer, EnforcerError, EnforcerPlan, PacketEvents, detach,
};
use clawsec_user::policy::{PacketPolicy, PacketRule, RateClass};
use ipnet::IpNet;

const HERE: &str = "10.231.7.1";
const THERE: &str = "10.231.7.2";
const PORT: u16 = 8443;

/// The other end's network namespace, held by a process that sleeps in it.
struct Peer(Child);

impl Peer {
    fn new() -> Result<Self> {
        let mut child = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo ready; exec sleep 600"])
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start unshare")?;
        // Its namespace exists once it speaks.
        let mut ready = [0; 6];
        child
            .stdout
            .take()
            .context("no output")?
            .read_exact(&mut ready)?;
        let peer = Self(child);
        let pid = peer.0.id().to_string();
        run(
            "ip",
            &[
                "link", "add", "enf0", "type", "veth", "peer", "name", "enf1", "netns", &pid,
            ],
        )?;
        run("ip", &["addr", "add", &format!("{HERE}/24"), "dev", "enf0"])?;
        run("ip", &["link", "set", "enf0", "up"])?;
        run("ip", &["link", "set", "lo", "up"])?;
        peer.run(
            "ip",
            &["addr", "add", &format!("{THERE}/24"), "dev", "enf1"],
        )?;
        peer.run("ip", &["link", "set", "enf1", "up"])?;
        Ok(peer)
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<()> {
        let pid = self.0.id().to_string();
        run(
            "nsenter",
            &[&["--net", "--target", &pid, program], arguments].concat(),
        )
    }

    /// A connection from the other end is answered; a lost SYN is sent again within this time.
    fn connects(&self, port: u16) -> bool {
        self.connects_within("5", port)
    }

    /// No answer to the one SYN that this time has room for.
    fn is_dropped(&self, port: u16) -> bool {
        !self.connects_within("0.5", port)
    }

    fn connects_within(&self, seconds: &str, port: u16) -> bool {
        let connect = format!("exec 3<>/dev/tcp/{HERE}/{port}");
        self.run("timeout", &[seconds, "bash", "-c", &connect])
            .is_ok()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program).args(arguments).output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {arguments:?}: {error}");
    Ok(())
}

fn policy(generation: u64, prefix: &str) -> PacketPolicy {
    PacketPolicy {
        generation,
        prefixes: vec![(prefix.parse().unwrap(), PacketRule::Allow { class: 0 })],
        classes: vec![RateClass {
            burst: 100,
            per_window: 100,
            window_ms: 60_000,
        }],
        tcp_ports: vec![PORT],
        guarded_tcp_ports: vec![18_789],
        ..PacketPolicy::default()
    }
}

fn dropped(enforcer: &Enforcer, reason: &str) -> u64 {
    let counters = enforcer.counters().unwrap();
    let mut of_reason = counters
        .iter()
        .filter(|c| c.reason == reason && c.effect == Effect::Dropped);
    of_reason.next().expect("every reason is counted").packets
}

/// Prefixes banned and admitted for a time; leaves two bans of others.
fn timed(peer: &Peer, enforcer: &mut Enforcer) {
    let hour = Duration::from_hours(1);
    let net = |text: &str| text.parse::<IpNet>().unwrap();
    enforcer.ban(net("10.231.0.0/16"), hour).unwrap();
    enforcer.ban(net("10.231.7.0/24"), Duration::ZERO).unwrap();
    assert!(peer.is_dropped(PORT), "a shorter, longer-lasting ban holds");
    assert!(enforcer.unban(net("10.231.0.0/16")).unwrap());
    assert!(
        !enforcer.unban(net("10.231.0.0/16")).unwrap(),
        "there is none"
    );
    assert!(peer.connects(PORT));
    assert!(enforcer.bans().unwrap().is_empty());

    enforcer.switch(&policy(2, "192.0.2.0/24")).unwrap();
    assert!(peer.is_dropped(PORT), "not allowed");
    enforcer.admit(net("10.231.7.2/32"), hour).unwrap();
    assert!(peer.connects(PORT), "admitted");
    assert!(peer.is_dropped(18_789), "guarded all the same");
    enforcer.ban(net("10.231.7.2/32"), hour).unwrap();
    assert!(peer.is_dropped(PORT), "a ban goes before an admission");
    enforcer.unban(net("10.231.7.2/32")).unwrap();
    let [admission] = enforcer.admissions().unwrap()[..] else {
        panic!("one admission")
    };
    assert_eq!(admission.prefix, net("10.231.7.2/32"));
    assert!(admission.remaining <= hour && admission.remaining > hour / 2);
    assert!(enforcer.unadmit(net("10.231.7.2/32")).unwrap());
    assert!(peer.is_dropped(PORT), "admitted no more");
    enforcer
        .admit_until(&[(net("10.231.7.0/24"), admission.until)])
        .unwrap();
    assert!(peer.connects(PORT), "admitted again, from a list");
    assert!(enforcer.unadmit(net("10.231.7.0/24")).unwrap());
    assert!(enforcer.admissions().unwrap().is_empty());

    enforcer.ban(net("203.0.113.0/24"), hour).unwrap();
    enforcer.ban(net("2001:db8:1:2:3:4:5:6/128"), hour).unwrap();
}

/// A million bans and 100,000 prefixes of each family, and one more of each.
#[test]
fn what_is_promised_loads_in_time_and_one_more_is_refused_with_numbers() {
    isolated(|| {
        let _peer = Peer::new().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let plan = EnforcerPlan {
            interfaces: vec!["enf0".to_owned()],
            mode: XdpMode::Auto,
            pin_dir: folder.path().join("bpf/clawsec"),
            bpf_log: false,
        };
        let mut enforcer = Enforcer::start(&plan, &policy(1, "192.0.2.0/24")).unwrap();
        let begun = std::time::Instant::now();
        let mut many = policy(2, "192.0.2.0/24");
        many.prefixes = (0..100_000_u32)
            .flat_map(|n| {
                let v4 = Ipv4Addr::from_bits(n.wrapping_mul(0x9e37_79b1));
                let v6 = Ipv6Addr::from_bits(u128::from(n + 1).wrapping_mul(0x9e37_79b9 << 72 | 7));
                [IpNet::from(IpAddr::from(v4)), IpNet::from(IpAddr::from(v6))]
            })
            .map(|net| (net, PacketRule::Allow { class: 0 }))
            .collect();
        let most = enforcer.memory().unwrap().bound_bytes;
        enforcer.switch(&many).unwrap();
        println!("200,000 prefixes in {:?}", begun.elapsed());
        assert_eq!(enforcer.generation().unwrap(), 2);
        many.generation = 3;
        many.prefixes
            .push(("192.0.2.0/24".parse().unwrap(), PacketRule::Deny));
        let error = enforcer.switch(&many).unwrap_err().to_string();
        assert_eq!(
            error,
            "the policy has 100001 IPv4 prefixes, and the kernel half holds 100000"
        );
        assert_eq!(enforcer.generation().unwrap(), 2, "refused whole");

        let until = std::time::SystemTime::now() + Duration::from_hours(1);
        let bans: Vec<_> = (1..=1_000_000_u32)
            .map(|n| (IpNet::from(IpAddr::from(Ipv4Addr::from_bits(n))), until))
            .collect();
        let begun = std::time::Instant::now();
        enforcer.ban_until(&bans).unwrap();
        println!("1,000,000 bans in {:?}", begun.elapsed());
        let memory = enforcer.memory().unwrap();
        println!("{}", memory.in_words());
        assert!(memory.used_bytes <= most, "{memory:?}, said {most}");
        let one = "203.0.113.1/32".parse().unwrap();
        let error = enforcer
            .ban(one, Duration::from_hours(1))
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "all 1000000 timed bans are taken; 1 of 1 new ones found no room"
        );
        assert!(enforcer.unban(bans[0].0).unwrap());
        enforcer.ban(one, Duration::from_hours(1)).unwrap();
        assert_eq!(enforcer.bans().unwrap().len(), 1_000_000);
        detach(&plan.pin_dir).unwrap();
    });
}

/// Runs in a thread of its own, in namespaces of its own.
fn isolated(test: fn()) {
    std::thread::spawn(move || {
        rustix::process::geteuid()
            .is_root()
            .then_some(())
            .expect("the kernel tier needs root");
        // SAFETY: this thread shares no files by number with others that it would lose: network
        // and mount namespaces do not concern the descriptor table.
        unsafe {
            rustix::thread::unshare_unsafe(
                rustix::thread::UnshareFlags::NEWNET | rustix::thread::UnshareFlags::NEWNS,
            )
        }
        .expect("cannot make namespaces");
        rustix::mount::mount_change(
            "/",
            rustix::mount::MountPropagationFlags::PRIVATE
                | rustix::mount::MountPropagationFlags::REC,
        )
        .expect("cannot make mounts private");
        test();
    })
    .join()
    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

#[test]
fn attaches_enforces_outlives_adopts_and_detaches() {
    isolated(|| {
        let peer = Peer::new().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let plan = EnforcerPlan {
            interfaces: vec!["enf0".to_owned()],
            mode: XdpMode::Auto,
            pin_dir: folder.path().join("bpf/clawsec"),
            bpf_log: false,
        };
        let _listener = TcpListener::bind((HERE, PORT)).unwrap();
        let _upstream = TcpListener::bind((HERE, 18_789)).unwrap();
        let _other = TcpListener::bind((HERE, 2222)).unwrap();
        assert!(peer.connects(PORT), "the pair works without a filter");

        let closed = policy(1, "192.0.2.0/24");
        let mut first = Enforcer::start(&plan, &closed).unwrap();
        let [attachment] = first.attachments() else {
            panic!("one interface")
        };
        assert_eq!(
            (attachment.mode, attachment.adopted),
            (AttachedMode::Native, false)
        );
        assert!(peer.is_dropped(PORT), "not allowed");
        assert!(peer.is_dropped(18_789), "guarded");
        assert!(peer.connects(2222), "not protected");
        assert!(dropped(&first, "not_allowed") >= 1);
        assert!(dropped(&first, "guarded_port") >= 1);

        first.switch(&policy(2, "10.231.7.0/24")).unwrap();
        assert_eq!(first.generation().unwrap(), 2);
        assert!(peer.connects(PORT), "allowed by the new policy");

        let source: IpNet = format!("{THERE}/32").parse().unwrap();
        first.ban(source, Duration::from_mins(1)).unwrap();
        assert!(peer.is_dropped(PORT), "banned");
        assert_eq!(first.bans().unwrap().len(), 1);
        assert!(first.unban(source).unwrap());
        assert!(!first.unban(source).unwrap(), "there is none");
        assert!(peer.connects(PORT), "not banned any more");
        first.ban(source, Duration::ZERO).unwrap();
        assert!(peer.connects(PORT), "run out");
        assert!(first.bans().unwrap().is_empty());
        timed(&peer, &mut first);

        let second = Enforcer::start(&plan, &closed).unwrap_err();
        assert!(matches!(second, EnforcerError::Locked { .. }), "{second}");
        first.switch(&policy(3, "192.0.2.0/24")).unwrap();
        let before = dropped(&first, "not_allowed");
        drop(first);
        assert!(peer.is_dropped(PORT), "enforced without a daemon");

        let mut third = Enforcer::start(&plan, &policy(4, "192.0.2.0/24")).unwrap();
        let kept: Vec<String> = third
            .bans()
            .unwrap()
            .iter()
            .map(|b| b.prefix.to_string())
            .collect();
        assert_eq!(
            kept,
            ["203.0.113.0/24", "2001:db8:1:2::/64"],
            "over the restart"
        );
        assert!(third.attachments()[0].adopted);
        assert!(
            dropped(&third, "not_allowed") > before,
            "counted without a daemon"
        );
        assert!(peer.is_dropped(PORT));

        // Someone else's filter at the hook is reported, not replaced.
        let elsewhere = EnforcerPlan {
            pin_dir: folder.path().join("bpf/other"),
            ..plan.clone()
        };
        match Enforcer::start(&elsewhere, &closed).unwrap_err() {
            EnforcerError::Occupied { name, id, .. } => {
                assert_eq!(name, "clawsec_xdp");
                assert_eq!(id, third.attachments()[0].program_id);
            }
            other => panic!("{other}"),
        }
        events(&peer, &mut third);

        assert_eq!(detach(&plan.pin_dir).unwrap(), ["enf0"]);
        let free = (0..100).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            !peer.is_dropped(PORT)
        });
        assert!(free, "detached, though the daemon's object is still loaded");
        assert!(!plan.pin_dir.exists());
        drop(third);
    });
}

#[test]
fn takes_over_another_schema_and_changes_the_mode() {
    isolated(|| {
        let peer = Peer::new().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut plan = EnforcerPlan {
            interfaces: vec!["enf0".to_owned()],
            mode: XdpMode::Auto,
            pin_dir: folder.path().join("bpf/clawsec"),
            bpf_log: false,
        };
        let _listener = TcpListener::bind((HERE, PORT)).unwrap();
        drop(Enforcer::start(&plan, &policy(1, "192.0.2.0/24")).unwrap());

        // As an older daemon would have left it: its link and maps in a folder of its schema.
        std::fs::rename(
            plan.pin_dir.join(format!("v{SCHEMA}")),
            plan.pin_dir.join("v0"),
        )
        .unwrap();
        assert!(peer.is_dropped(PORT), "the old schema enforces");
        let second = Enforcer::start(&plan, &policy(2, "192.0.2.0/24")).unwrap();
        assert!(second.attachments()[0].adopted);
        assert!(
            !plan.pin_dir.join("v0").exists(),
            "what the old schema left is removed"
        );
        assert!(peer.is_dropped(PORT));
        assert_eq!(dropped(&second, "not_allowed"), 1, "fresh maps");
        drop(second);

        plan.mode = XdpMode::Generic;
        let third = Enforcer::start(&plan, &policy(3, "192.0.2.0/24")).unwrap();
        let [attachment] = third.attachments() else {
            panic!("one interface")
        };
        assert_eq!(
            (attachment.mode, attachment.adopted),
            (AttachedMode::Generic, false)
        );
        assert!(peer.is_dropped(PORT));
        drop(third);

        plan.interfaces = vec!["enf0".to_owned(), "no-such-device".to_owned()];
        let error = Enforcer::start(&plan, &policy(4, "10.231.7.0/24")).unwrap_err();
        assert!(
            matches!(error, EnforcerError::NoInterface { .. }),
            "{error}"
        );

        // An interface that the plan no longer names is let go.
        plan.interfaces = vec!["lo".to_owned()];
        let fourth = Enforcer::start(&plan, &policy(5, "192.0.2.0/24")).unwrap();
        assert_eq!(
            fourth.attachments()[0].mode,
            AttachedMode::Generic,
            "lo has nothing else"
        );
        assert!(peer.connects(PORT));
        assert_eq!(detach(&plan.pin_dir).unwrap(), ["lo"]);
    });
}

/// A writer that keeps what it is given.
#[derive(Clone, Default)]
struct Kept(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_program_s_log_comes_out_through_tracing() {
    isolated(|| {
        let peer = Peer::new().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let plan = EnforcerPlan {
            interfaces: vec!["enf0".to_owned()],
            mode: XdpMode::Auto,
            pin_dir: folder.path().join("bpf/clawsec"),
            bpf_log: true,
        };
        let mut enforcer = Enforcer::start(&plan, &policy(1, "192.0.2.0/24")).unwrap();
        let kept = Kept::default();
        let writer = kept.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let _guard = tracing_subscriber::util::SubscriberInitExt::set_default(subscriber);
        let text = || String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        runtime.block_on(async {
            let mut log = enforcer.take_log().unwrap();
            assert!(peer.is_dropped(PORT));
            for _ in 0..50 {
                tokio::time::timeout(Duration::from_millis(100), log.pump())
                    .await
                    .ok();
                if !text().is_empty() {
                    break;
                }
            }
        });
        let line = format!("drop from ::ffff:{THERE} to port {PORT}, total 1: not_allowed\n");
        assert!(
            text().contains("clawsec::bpf") && text().contains(&line),
            "{}",
            text()
        );
        detach(&plan.pin_dir).unwrap();
    });
}

/// An event comes at once, and the harvest never says more than the counters.
fn events(peer: &Peer, enforcer: &mut Enforcer) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    assert!(matches!(
        enforcer.take_events(),
        Err(EnforcerError::NoRuntime)
    ));
    runtime.block_on(async {
        let mut events: PacketEvents = enforcer.take_events().unwrap();
        assert!(matches!(
            enforcer.take_events(),
            Err(EnforcerError::EventsTaken)
        ));
        // The last drop of this source and reason is more than a second ago: told at once.
        assert!(peer.is_dropped(18_789));
        let event = tokio::time::timeout(Duration::from_secs(5), async {
            loop {
                let batch = events.next().await.unwrap();
                assert_eq!(batch.lost, 0);
                if let Some(event) = batch.events.iter().find(|e| e.reason == "guarded_port") {
                    return *event;
                }
            }
        })
        .await
        .expect("an event within five seconds");
        assert_eq!(event.source, Some(THERE.parse().unwrap()));
        assert_eq!(event.counted_as, event.source);
        assert_eq!((event.dest_port, event.protocol), (18_789, Some("tcp")));
        assert_eq!((event.generation, event.effect), (4, Effect::Dropped));
        assert_ne!(event.source_port, 0);
    });
    let harvest = enforcer.harvest().unwrap();
    for reason in ["guarded_port", "not_allowed", "banned"] {
        let told: u64 = harvest
            .iter()
            .filter(|t| t.reason == reason)
            .map(|t| t.total)
            .sum();
        assert_eq!(
            told,
            dropped(enforcer, reason),
            "{reason}: one source, nothing evicted"
        );
    }
}
