//! Attaching: adopt the pinned link by an atomic update, or make and pin a new one.
//!
//! Another program at the hook is never replaced. No descriptor of a link is kept: the pin alone
//! holds it, so that removing the pin detaches, and a dead daemon does not.

use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::xdp::{XdpLink, XdpMode as AyaMode};
use aya::programs::{ProgramError, Xdp};

use super::error::EnforcerError;
use super::{EnforcerPlan, hook, load, pin};
use crate::config::XdpMode;

/// How the kernel runs the program at an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttachedMode {
    /// In the driver, before the kernel's own packet structure exists.
    Native,
    /// In the kernel's stack: works everywhere, costs several times as much.
    Generic,
    /// In the device; never made by clawsec.
    Offloaded,
    /// Several programs at once; never made by clawsec.
    Several,
}

/// One interface that is enforced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    pub interface: String,
    pub ifindex: u32,
    pub mode: AttachedMode,
    pub program_id: u32,
    /// The link was there and now runs this daemon's program; no packet passed in between.
    pub adopted: bool,
}

impl AttachedMode {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Offloaded => "offloaded",
            Self::Several => "several",
        }
    }
}

/// Attaches to every interface of the plan, then lets go of those that it no longer names.
pub(super) fn attach_all(
    ebpf: &mut Ebpf,
    plan: &EnforcerPlan,
    folder: &Path,
) -> Result<Vec<Attachment>, EnforcerError> {
    let program = load::program(ebpf)?;
    let program_id = program_id(program)?;
    let mut attachments: Vec<Attachment> = Vec::new();
    for interface in &plan.interfaces {
        match attach(program, program_id, interface, plan.mode, folder) {
            Ok(attachment) => attachments.push(attachment),
            Err(error) => {
                // What this call made goes; what it adopted was enforced before and stays.
                for made in attachments.iter().filter(|attachment| !attachment.adopted) {
                    pin::remove(&pin::link_path(folder, &made.interface))?;
                }
                return Err(error);
            }
        }
    }
    for interface in pin::linked(folder)? {
        if !plan.interfaces.contains(&interface) {
            tracing::info!(interface, "no longer named; detached");
            pin::remove(&pin::link_path(folder, &interface))?;
        }
    }
    Ok(attachments)
}

fn attach(
    program: &mut Xdp,
    program_id: u32,
    interface: &str,
    mode: XdpMode,
    folder: &Path,
) -> Result<Attachment, EnforcerError> {
    let ifindex = hook::index(interface)?;
    let own = pin::link_path(folder, interface);
    let attachment = |mode, adopted| Attachment {
        interface: interface.to_owned(),
        ifindex,
        mode,
        program_id,
        adopted,
    };

    let mut pinned: Vec<PathBuf> = pin::foreign_links(folder, interface);
    pinned.extend(own.exists().then(|| own.clone()));
    for path in pinned {
        let before = hook::query(interface, ifindex)?;
        if before.is_some_and(|hook| !fits(hook.mode, mode)) {
            tracing::warn!(
                interface,
                "another mode is asked for; attaching anew, with a gap"
            );
            pin::remove(&path)?;
            continue;
        }
        match adopt(program, &path, &own) {
            Ok(()) => {}
            Err(error) => {
                tracing::warn!(interface, error = %error, "the pinned link is dead; attaching anew");
                pin::remove(&path)?;
                continue;
            }
        }
        // The link may have been another device's, which had this name before.
        match hook::query(interface, ifindex)? {
            Some(hook) if hook.program_id == program_id => {
                return Ok(attachment(hook.mode, true));
            }
            _ => {
                tracing::warn!(
                    interface,
                    "the pinned link was another device's; attaching anew"
                );
                pin::remove(&own)?;
            }
        }
    }

    wait_until_free(interface, ifindex)?;
    let link = attach_new(program, interface, ifindex, mode)?;
    link.pin(&own).map_err(|source| EnforcerError::PinLink {
        interface: interface.to_owned(),
        source,
    })?;
    match hook::query(interface, ifindex)? {
        Some(hook) => Ok(attachment(hook.mode, false)),
        None => Err(EnforcerError::NoInterface {
            interface: interface.to_owned(),
            source: std::io::ErrorKind::NotFound.into(),
        }),
    }
}

/// Puts this program in a pinned link's place, and the pin where this schema keeps it.
fn adopt(program: &mut Xdp, path: &Path, own: &Path) -> Result<(), EnforcerError> {
    let link_error = |source| EnforcerError::Link {
        path: path.to_owned(),
        source,
    };
    let link: FdLink = PinnedLink::from_pin(path).map_err(link_error)?.into();
    let link = XdpLink::try_from(link).map_err(link_error)?;
    let attach_error = |source| EnforcerError::Attach {
        interface: path.display().to_string(),
        mode: "adopted",
        source: Box::new(source),
    };
    let id = program.attach_to_link(link).map_err(attach_error)?;
    let link = program.take_link(id).map_err(attach_error)?;
    if path != own {
        let link = FdLink::try_from(link).map_err(link_error)?;
        link.pin(own).map_err(|source| EnforcerError::PinLink {
            interface: path.display().to_string(),
            source,
        })?;
        pin::remove(path)?;
    }
    Ok(())
}

/// Native first, then generic, as far as the plan lets.
fn attach_new(
    program: &mut Xdp,
    interface: &str,
    ifindex: u32,
    mode: XdpMode,
) -> Result<FdLink, EnforcerError> {
    let modes: &[(AyaMode, &str)] = match mode {
        XdpMode::Auto => &[(AyaMode::Driver, "native"), (AyaMode::Skb, "generic")],
        XdpMode::Native => &[(AyaMode::Driver, "native")],
        XdpMode::Generic => &[(AyaMode::Skb, "generic")],
    };
    let mut last = None;
    for (mode, name) in modes {
        match program.attach_to_if_index(ifindex, *mode) {
            Ok(id) => {
                let attach_error = |source| EnforcerError::Attach {
                    interface: interface.to_owned(),
                    mode: name,
                    source: Box::new(source),
                };
                let link = program.take_link(id).map_err(attach_error)?;
                // Without link support aya falls back to netlink, which cannot be pinned. A
                // kernel that knows `xdp.frags` has links, so this is not met in practice.
                return FdLink::try_from(link).map_err(|source| EnforcerError::NoLink {
                    interface: interface.to_owned(),
                    source,
                });
            }
            Err(source) => {
                tracing::warn!(
                    interface,
                    mode = name,
                    error = chain(&source),
                    "cannot attach"
                );
                last = Some(EnforcerError::Attach {
                    interface: interface.to_owned(),
                    mode: name,
                    source: Box::new(source),
                });
            }
        }
    }
    // Someone else may have been quicker since the hook was found free.
    check_free(interface, ifindex)?;
    Err(last.unwrap_or(EnforcerError::NoLink {
        interface: interface.to_owned(),
        source: LinkError::InvalidLink,
    }))
}

/// Whether an attached program may stay in its mode.
fn fits(attached: AttachedMode, asked: XdpMode) -> bool {
    match asked {
        XdpMode::Auto => true,
        XdpMode::Native => attached == AttachedMode::Native,
        XdpMode::Generic => attached == AttachedMode::Generic,
    }
}

/// A link whose pin was just removed is detached by a kernel worker: give it a moment before the
/// program at the hook is called someone else's.
fn wait_until_free(interface: &str, ifindex: u32) -> Result<(), EnforcerError> {
    for _ in 0..50 {
        if hook::query(interface, ifindex)?.is_none() {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    check_free(interface, ifindex)
}

fn check_free(interface: &str, ifindex: u32) -> Result<(), EnforcerError> {
    match hook::query(interface, ifindex)? {
        None => Ok(()),
        Some(hook) => Err(EnforcerError::Occupied {
            interface: interface.to_owned(),
            id: hook.program_id,
            name: hook::program_name(hook.program_id),
        }),
    }
}

fn program_id(program: &Xdp) -> Result<u32, EnforcerError> {
    let info = program.info().map_err(|source| EnforcerError::Verify {
        program: clawsec_common::abi::name::PROGRAM,
        source: Box::new(source),
    })?;
    Ok(info.id())
}

/// An error with its causes on one line: the reason of a fallback is in the last.
fn chain(error: &ProgramError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
