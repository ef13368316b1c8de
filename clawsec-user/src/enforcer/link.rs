//! The kernel's links: made new, or adopted from a pin by an atomic update; either hook.
//!
//! No descriptor of a link is kept: the pin alone holds it, so that removing the pin detaches,
//! and a dead daemon does not.

use std::os::fd::AsFd as _;
use std::path::Path;

use aya::Ebpf;
use aya::programs::links::{FdLink, LinkOrder, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::xdp::{XdpLink, XdpMode as AyaMode};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType};
use clawsec_common::abi::name;

use super::attach::AttachedMode;
use super::error::EnforcerError;
use super::pin::{self, Kind};
use super::{advice, extack, hook, load};

/// The one object's programs for the two hooks.
pub(super) struct Programs<'a> {
    ebpf: &'a mut Ebpf,
}

impl<'a> Programs<'a> {
    pub(super) fn new(ebpf: &'a mut Ebpf) -> Self {
        Self { ebpf }
    }

    /// The kernel's number of the program for this hook.
    pub(super) fn id(&mut self, kind: Kind) -> Result<u32, EnforcerError> {
        let (program, info) = match kind {
            Kind::Xdp => (name::PROGRAM, load::program(self.ebpf)?.info()),
            Kind::Tcx => (name::PROGRAM_TCX, self.tcx()?.info()),
        };
        let info = info.map_err(|source| EnforcerError::Verify {
            program,
            source: Box::new(source),
        })?;
        Ok(info.id())
    }

    /// The program for the tcx hook, loaded when it is first needed: kernels before 6.6 need
    /// never see it.
    fn tcx(&mut self) -> Result<&mut SchedClassifier, EnforcerError> {
        let program: &mut SchedClassifier = self
            .ebpf
            .program_mut(name::PROGRAM_TCX)
            .and_then(|program| program.try_into().ok())
            .ok_or(EnforcerError::Missing {
                name: name::PROGRAM_TCX,
            })?;
        if program.fd().is_err() {
            program.load().map_err(|source| EnforcerError::Verify {
                program: name::PROGRAM_TCX,
                source: Box::new(source),
            })?;
        }
        Ok(program)
    }

    /// Puts this program in a pinned link's place, and the pin where this schema keeps it.
    pub(super) fn adopt(
        &mut self,
        kind: Kind,
        path: &Path,
        own: &Path,
    ) -> Result<(), EnforcerError> {
        let link_error = |source| EnforcerError::Link {
            path: path.to_owned(),
            source,
        };
        let attach_error = |source| EnforcerError::Attach {
            interface: path.display().to_string(),
            mode: "adopted",
            hint: String::new(),
            source: Box::new(source),
        };
        let link: FdLink = PinnedLink::from_pin(path).map_err(link_error)?.into();
        let link: FdLink = match kind {
            Kind::Xdp => {
                let program = load::program(self.ebpf)?;
                let link = XdpLink::try_from(link).map_err(link_error)?;
                let id = program.attach_to_link(link).map_err(attach_error)?;
                let link = program.take_link(id).map_err(attach_error)?;
                link.try_into().map_err(link_error)?
            }
            Kind::Tcx => {
                let program = self.tcx()?;
                let link = SchedClassifierLink::try_from(link).map_err(link_error)?;
                let id = program.attach_to_link(link).map_err(attach_error)?;
                let link = program.take_link(id).map_err(attach_error)?;
                link.try_into().map_err(link_error)?
            }
        };
        if path != own {
            link.pin(own).map_err(|source| EnforcerError::PinLink {
                interface: path.display().to_string(),
                source,
            })?;
            pin::remove(path)?;
        }
        Ok(())
    }

    /// Attaches at the XDP hook and pins the link at `own`.
    pub(super) fn attach_xdp(
        &mut self,
        interface: &str,
        ifindex: u32,
        mode: AttachedMode,
        own: &Path,
    ) -> Result<(), EnforcerError> {
        let (flags, asked) = match mode {
            AttachedMode::Generic => (AyaMode::Skb, extack::XDP_FLAGS_SKB_MODE),
            _ => (AyaMode::Driver, extack::XDP_FLAGS_DRV_MODE),
        };
        let program = load::program(self.ebpf)?;
        let id = match program.attach_to_if_index(ifindex, flags) {
            Ok(id) => id,
            Err(source) => {
                let told = program
                    .fd()
                    .ok()
                    .and_then(|fd| extack::ask(ifindex, fd.as_fd(), asked));
                return Err(EnforcerError::Attach {
                    interface: interface.to_owned(),
                    mode: mode.as_str(),
                    hint: hint(interface, ifindex, &source, told.as_deref()),
                    source: Box::new(source),
                });
            }
        };
        let link = program.take_link(id).map_err(failed(interface, mode))?;
        // Without link support aya falls back to netlink, which cannot be pinned. A kernel that
        // knows `xdp.frags` has links, so this is not met in practice.
        let link = FdLink::try_from(link).map_err(|source| EnforcerError::NoLink {
            interface: interface.to_owned(),
            source,
        })?;
        pin_new(link, interface, own)
    }

    /// Attaches at the tcx hook, before every other program there, and pins the link at `own`.
    pub(super) fn attach_tcx(&mut self, interface: &str, own: &Path) -> Result<(), EnforcerError> {
        let mode = AttachedMode::Tcx;
        let program = self.tcx()?;
        let first = TcAttachOptions::TcxOrder(LinkOrder::first());
        let id = program
            .attach_with_options(interface, TcAttachType::Ingress, first)
            .map_err(|source| EnforcerError::Attach {
                interface: interface.to_owned(),
                mode: mode.as_str(),
                hint: match errno(&source) {
                    Some(libc::EINVAL) => " (kernel 6.6 has tcx first)".to_owned(),
                    _ => String::new(),
                },
                source: Box::new(source),
            })?;
        let link = program.take_link(id).map_err(failed(interface, mode))?;
        let link = FdLink::try_from(link).map_err(|source| EnforcerError::NoLink {
            interface: interface.to_owned(),
            source,
        })?;
        pin_new(link, interface, own)
    }
}

fn pin_new(link: FdLink, interface: &str, own: &Path) -> Result<(), EnforcerError> {
    link.pin(own)
        .map(drop)
        .map_err(|source| EnforcerError::PinLink {
            interface: interface.to_owned(),
            source,
        })
}

/// For `map_err`.
fn failed(interface: &str, mode: AttachedMode) -> impl FnOnce(ProgramError) -> EnforcerError {
    let interface = interface.to_owned();
    move |source| EnforcerError::Attach {
        interface,
        mode: mode.as_str(),
        hint: String::new(),
        source: Box::new(source),
    }
}

/// What the driver said, and the command that helps.
fn hint(interface: &str, ifindex: u32, source: &ProgramError, told: Option<&str>) -> String {
    let device = hook::device(interface, ifindex);
    let mut hint = told.map_or_else(String::new, |told| format!(" (the driver says: {told})"));
    if let Some(line) = advice::remedy(interface, &device, errno(source), told) {
        hint.push_str("; try `");
        hint.push_str(&line);
        hint.push('`');
    }
    hint
}

/// The kernel's error number, wherever aya keeps it.
fn errno(error: &ProgramError) -> Option<i32> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return io.raw_os_error();
        }
        cause = error.source();
    }
    match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
        _ => None,
    }
}
