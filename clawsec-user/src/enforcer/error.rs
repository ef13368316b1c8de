//! What can go wrong in the packet plane, named by the operation.

use std::io;
use std::path::PathBuf;

use aya::EbpfError;
use aya::maps::MapError;
use aya::pin::PinError;
use aya::programs::ProgramError;
use aya::programs::links::LinkError;

#[derive(Debug, thiserror::Error)]
pub enum EnforcerError {
    #[error("this build has no kernel half; run `cargo xtask build`")]
    NoObject,
    #[error("the policy has {count} {what}, and the kernel half holds {limit}")]
    TooMany {
        what: &'static str,
        count: usize,
        limit: usize,
    },
    #[error("prefix {prefix} names rate class {class}, and the policy has {classes}")]
    NoSuchClass {
        prefix: String,
        class: u16,
        classes: usize,
    },
    #[error("cannot {what} {path}")]
    Pin {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("another daemon holds {path}")]
    Locked { path: PathBuf },
    #[error(
        "pinned map {path} has another layout ({found}, expected {expected}); `clawsec detach` \
         removes it"
    )]
    PinnedLayout {
        path: PathBuf,
        found: String,
        expected: String,
    },
    #[error("cannot load the BPF object")]
    Load {
        #[source]
        source: Box<EbpfError>,
    },
    #[error("the kernel refused program {program}")]
    Verify {
        program: &'static str,
        #[source]
        source: Box<ProgramError>,
    },
    #[error("the BPF object has no {name}")]
    Missing { name: &'static str },
    #[error("cannot {what} map {map}")]
    Map {
        what: &'static str,
        map: &'static str,
        #[source]
        source: Box<MapError>,
    },
    #[error("no packet filter is in force under {path}")]
    NotInForce { path: PathBuf },
    #[error("the kernel did not run the program on a frame of {bytes} bytes")]
    Run {
        bytes: usize,
        #[source]
        source: Box<ProgramError>,
    },
    #[error("map {map} does not hold what was written to it; the old policy stays in force")]
    ReadBack { map: &'static str },
    #[error("there is no interface {interface}")]
    NoInterface {
        interface: String,
        #[source]
        source: io::Error,
    },
    #[error("cannot ask the kernel what is attached to {interface}")]
    Query {
        interface: String,
        #[source]
        source: io::Error,
    },
    #[error(
        "{interface} already runs XDP program {id} ({name}); clawsec replaces no other program"
    )]
    Occupied {
        interface: String,
        id: u32,
        name: String,
    },
    #[error("cannot attach to {interface} in {mode} mode{hint}")]
    Attach {
        interface: String,
        mode: &'static str,
        /// Empty, or what the driver said and the command that helps.
        hint: String,
        #[source]
        source: Box<ProgramError>,
    },
    #[error(
        "{interface} took the program without a link, which cannot outlive the daemon; \
         `ip link set dev {interface} xdp off` removes it"
    )]
    NoLink {
        interface: String,
        #[source]
        source: LinkError,
    },
    #[error("cannot use the pinned link {path}")]
    Link {
        path: PathBuf,
        #[source]
        source: LinkError,
    },
    #[error("cannot pin the link of {interface}")]
    PinLink {
        interface: String,
        #[source]
        source: PinError,
    },
    #[error("all {limit} timed bans are taken; {left} of {count} new ones found no room")]
    BansFull {
        limit: usize,
        left: usize,
        count: usize,
    },
    #[error("there would be {count} {what}, and the kernel half holds {limit}")]
    TooManyTimed {
        what: &'static str,
        count: usize,
        limit: usize,
    },
    #[error("cannot duplicate the descriptor of map {map}")]
    Descriptor {
        map: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("cannot {what} the timed bans")]
    Batch {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("cannot {what} the prefix nodes of the idle slot")]
    Nodes {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("cannot read map {map} as a whole")]
    Copy {
        map: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("the policy in force changes too quickly to be copied; try again")]
    Restless,
    #[error("the packet events were taken before")]
    EventsTaken,
    #[error("packet events and logs are read inside a tokio runtime")]
    NoRuntime,
    #[error("cannot open the event buffer of CPU {cpu}")]
    EventBuffer {
        cpu: u32,
        #[source]
        source: io::Error,
    },
    #[error("cannot list the online CPUs")]
    Cpus {
        #[source]
        source: io::Error,
    },
    #[error("cannot read the program's log")]
    Log {
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
