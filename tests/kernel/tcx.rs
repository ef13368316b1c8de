//! The tcx hook on real frames: what the kernel took out of them is judged all the same, and a
//! driver that takes no XDP program leads there with its reason.

use std::os::fd::AsRawFd as _;
use std::path::PathBuf;

use clawsec_user::config::XdpMode;
use clawsec_user::enforcer::{AttachedMode, Effect, Enforcer, EnforcerPlan, detach};
use clawsec_user::policy::{PacketPolicy, PacketRule, RateClass};
use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};
use xtask::lab::{CLIENT_INSIDE, CLIENT_OUTSIDE, CLIENT_OUTSIDE_V6, Host, Lab};

use super::frame::{Frame, SYN, Shape, tcp_header};
use crate::system::daemon::in_namespace;

const PORT: u16 = 8443;

fn plan(name: &str, interface: &str, mode: XdpMode) -> EnforcerPlan {
    EnforcerPlan {
        interfaces: vec![interface.to_owned()],
        mode,
        pin_dir: PathBuf::from(format!("/sys/fs/bpf/clawsec-test-{name}")),
        bpf_log: false,
    }
}

fn policy(generation: u64) -> PacketPolicy {
    PacketPolicy {
        generation,
        prefixes: vec![(
            "192.0.2.0/24".parse().unwrap(),
            PacketRule::Allow { class: 0 },
        )],
        classes: vec![RateClass {
            burst: 100,
            per_window: 100,
            window_ms: 60_000,
        }],
        tcp_ports: vec![PORT],
        udp_ports: Vec::new(),
        guarded_tcp_ports: Vec::new(),
        ..PacketPolicy::default()
    }
}

fn counted(enforcer: &Enforcer, reason: &str) -> u64 {
    let counters = enforcer.counters().unwrap();
    let of_reason = counters
        .iter()
        .filter(|counter| counter.reason == reason && counter.effect != Effect::WouldDrop);
    of_reason.map(|counter| counter.packets).sum()
}

/// Sends a frame as it is, on this namespace's eth0.
fn send(frame: &[u8]) {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None).unwrap();
    let index = netdevice::name_to_index(&socket, "eth0").unwrap();
    // SAFETY: all zeros is a valid value of this structure of integers.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = libc::AF_PACKET.try_into().unwrap();
    to.sll_ifindex = index.try_into().unwrap();
    let length = size_of::<libc::sockaddr_ll>().try_into().unwrap();
    // SAFETY: the buffer and the address live through the call, and their sizes are theirs.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const to).cast(),
            length,
        )
    };
    assert_eq!(usize::try_from(sent), Ok(frame.len()), "the frame is sent");
}

fn ip(lab: &Lab, arguments: &[&str]) {
    let status = lab.command(Host::Gateway, "ip").args(arguments).status();
    assert!(status.unwrap().success(), "ip {arguments:?}");
}

#[test]
fn tcx_judges_a_frame_whose_tag_the_kernel_took_out() {
    let lab = Lab::new("ktcx").unwrap();
    let plan = plan("ktcx", "outside", XdpMode::Tcx);
    detach(&plan.pin_dir).ok();
    let enforcer = in_namespace(&lab, Host::Gateway, || {
        Enforcer::start(&plan, &policy(1)).unwrap()
    });
    assert_eq!(enforcer.attachments()[0].mode, AttachedMode::Tcx);
    for (row, source, vlan_tags, service_tags, reason) in [
        ("no tag", CLIENT_OUTSIDE, 0, false, "not_allowed"),
        ("one tag", CLIENT_OUTSIDE, 1, false, "not_allowed"),
        ("one service tag", CLIENT_OUTSIDE, 1, true, "not_allowed"),
        ("four tags", CLIENT_OUTSIDE, 4, false, "not_allowed"),
        ("five tags", CLIENT_OUTSIDE, 5, false, "vlan_depth"),
        ("IPv6, two tags", CLIENT_OUTSIDE_V6, 2, true, "not_allowed"),
        ("allowed, two tags", CLIENT_INSIDE, 2, false, "allowed"),
    ] {
        let shape = Shape {
            vlan_tags,
            service_tags,
            padding: 16,
            ..Shape::default()
        };
        let frame = Frame::shaped(&shape, source, 6, &tcp_header(PORT, SYN));
        let before = counted(&enforcer, reason);
        in_namespace(&lab, Host::Outside, || send(&frame.0));
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(2);
        while counted(&enforcer, reason) == before && std::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
        assert_eq!(counted(&enforcer, reason), before + 1, "{row}");
    }
    // What no test run takes: `program.rs` says which frames those are.
    let whole = Frame::tcp(CLIENT_OUTSIDE, PORT, SYN).0;
    let whole_v6 = Frame::tcp(CLIENT_OUTSIDE_V6, PORT, SYN).0;
    for (row, frame) in [
        ("IPv4 of one byte", &whole[..15]),
        ("the IPv4 header less a byte", &whole[..14 + 19]),
        ("the IPv6 header less a byte", &whole_v6[..14 + 39]),
    ] {
        let before = counted(&enforcer, "malformed");
        in_namespace(&lab, Host::Outside, || send(frame));
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(2);
        while counted(&enforcer, "malformed") == before && std::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
        assert_eq!(counted(&enforcer, "malformed"), before + 1, "{row}");
    }
    drop(enforcer);
    let again = in_namespace(&lab, Host::Gateway, || {
        Enforcer::start(&plan, &policy(2)).unwrap()
    });
    assert!(again.attachments()[0].adopted, "its link outlives it");
    drop(again);
    detach(&plan.pin_dir).unwrap();
}

#[test]
fn a_driver_that_refuses_leads_to_tcx_with_its_reason() {
    let lab = Lab::new("kdown").unwrap();
    // The other end may send on four queues, and this one reads one: veth refuses native XDP.
    ip(
        &lab,
        &[
            "link",
            "add",
            "few",
            "numrxqueues",
            "1",
            "numtxqueues",
            "1",
            "type",
            "veth",
            "peer",
            "name",
            "many",
            "numrxqueues",
            "4",
            "numtxqueues",
            "4",
        ],
    );
    ip(&lab, &["link", "set", "few", "up"]);
    let auto = plan("kdown", "few", XdpMode::Auto);
    detach(&auto.pin_dir).ok();
    in_namespace(&lab, Host::Gateway, || {
        let enforcer = Enforcer::start(&auto, &policy(1)).unwrap();
        let [attachment] = enforcer.attachments() else {
            panic!("one interface")
        };
        assert_eq!(attachment.mode, AttachedMode::Tcx);
        let [why] = &attachment.steps_down[..] else {
            panic!("{:?}", attachment.steps_down)
        };
        for word in [
            "native",
            "queues",
            "No space left",
            "try `ethtool -L few rx",
        ] {
            assert!(why.contains(word), "{word:?} is not in: {why}");
        }
        drop(enforcer);

        // Asked for by name there is no other mode, and what enforced before still does.
        let native = EnforcerPlan {
            mode: XdpMode::Native,
            ..auto.clone()
        };
        let refused = Enforcer::start(&native, &policy(2))
            .unwrap_err()
            .to_string();
        assert!(
            refused.contains("native") && refused.contains("ethtool"),
            "{refused}"
        );
        assert!(pinned_tcx(&auto), "still enforced");
    });
    detach(&auto.pin_dir).unwrap();
}

/// Whether the interface's tcx link is pinned, whatever the schema.
fn pinned_tcx(plan: &EnforcerPlan) -> bool {
    let schemas = std::fs::read_dir(&plan.pin_dir).unwrap();
    schemas
        .filter_map(Result::ok)
        .any(|schema| schema.path().join("tcx-few").exists())
}
