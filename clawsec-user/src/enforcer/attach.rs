//! Attaching: native, then tcx, then generic, each step down with its reason.
//!
//! Another program is never replaced. What is pinned already is adopted by an atomic update, and
//! where the mode must change the new link is there before the old one goes. Native and generic
//! exclude each other at one interface, so between the two the tcx hook covers.

use std::path::{Path, PathBuf};
use std::time::Duration;

use aya::Ebpf;

use super::error::EnforcerError;
use super::link::Programs;
use super::pin::{self, Kind};
use super::{EnforcerPlan, hook};
use crate::config::XdpMode;

/// How the kernel runs the program at an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttachedMode {
    /// In the driver, before the kernel's own packet structure exists.
    Native,
    /// In the kernel's stack, before everything else there (kernel 6.6).
    Tcx,
    /// XDP imitated in the kernel's stack: works everywhere, costs the most.
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
    /// Why it is no better mode, one line for each that was tried; empty for native.
    pub steps_down: Vec<String>,
}

impl AttachedMode {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Tcx => "tcx",
            Self::Generic => "generic",
            Self::Offloaded => "offloaded",
            Self::Several => "several",
        }
    }

    fn kind(self) -> Kind {
        match self {
            Self::Tcx => Kind::Tcx,
            _ => Kind::Xdp,
        }
    }
}

/// Attaches to every interface of the plan, then lets go of those that it no longer names.
pub(super) fn attach_all(
    ebpf: &mut Ebpf,
    plan: &EnforcerPlan,
    folder: &Path,
) -> Result<Vec<Attachment>, EnforcerError> {
    let mut attachments: Vec<Attachment> = Vec::new();
    let mut fresh: Vec<&String> = Vec::new();
    for interface in &plan.interfaces {
        match attach(ebpf, plan, folder, interface) {
            Ok((attachment, was_enforced)) => {
                attachments.push(attachment);
                if !was_enforced {
                    fresh.push(interface);
                }
            }
            Err(error) => {
                // What this call made goes; what was enforced before it stays so.
                for interface in fresh {
                    pin::remove_links(folder, interface)?;
                }
                return Err(error);
            }
        }
    }
    for interface in pin::linked(folder)? {
        if !plan.interfaces.contains(&interface) {
            tracing::info!(interface, "no longer named; detached");
            pin::remove_links(folder, &interface)?;
        }
    }
    Ok(attachments)
}

/// Attaches to one interface; whether a link of ours judged there before.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    plan: &EnforcerPlan,
    folder: &Path,
    interface: &str,
) -> Result<(Attachment, bool), EnforcerError> {
    let mut site = Site {
        programs: Programs::new(ebpf),
        interface,
        ifindex: hook::index(interface)?,
        folder,
        xdp: None,
        tcx: false,
    };
    site.adopt_what_is_pinned()?;
    let (had_xdp, had_tcx) = (site.xdp, site.tcx);
    let (mode, steps_down) = site.settle(plan.mode)?;
    let attachment = Attachment {
        interface: interface.to_owned(),
        ifindex: site.ifindex,
        mode,
        program_id: site.programs.id(mode.kind())?,
        adopted: match mode.kind() {
            Kind::Xdp => had_xdp == Some(mode),
            Kind::Tcx => had_tcx,
        },
        steps_down,
    };
    Ok((attachment, had_xdp.is_some() || had_tcx))
}

/// The modes to try, best first.
fn ladder(mode: XdpMode) -> &'static [AttachedMode] {
    match mode {
        XdpMode::Auto => &[
            AttachedMode::Native,
            AttachedMode::Tcx,
            AttachedMode::Generic,
        ],
        XdpMode::Native => &[AttachedMode::Native],
        XdpMode::Tcx => &[AttachedMode::Tcx],
        XdpMode::Generic => &[AttachedMode::Generic],
    }
}

/// One interface while it is worked on, and which links of ours judge there.
struct Site<'a> {
    programs: Programs<'a>,
    interface: &'a str,
    ifindex: u32,
    folder: &'a Path,
    xdp: Option<AttachedMode>,
    tcx: bool,
}

impl Site<'_> {
    fn own(&self, kind: Kind) -> PathBuf {
        pin::link_path(self.folder, kind, self.interface)
    }

    /// Puts this daemon's program into every pinned link of this interface; removes dead ones.
    fn adopt_what_is_pinned(&mut self) -> Result<(), EnforcerError> {
        for kind in Kind::ALL {
            let own = self.own(kind);
            let mut pinned = pin::foreign_links(self.folder, kind, self.interface);
            pinned.extend(own.exists().then(|| own.clone()));
            for path in pinned {
                if let Err(error) = self.programs.adopt(kind, &path, &own) {
                    let error = chain(&error);
                    tracing::warn!(self.interface, error, "the pinned link is dead");
                    pin::remove(&path)?;
                } else if !self.judges_here(kind)? {
                    // It may be another device's, which had this name before.
                    tracing::warn!(self.interface, "the pinned link was another device's");
                    pin::remove(&own)?;
                }
            }
        }
        Ok(())
    }

    /// Whether this daemon's program runs at the hook; remembers it.
    fn judges_here(&mut self, kind: Kind) -> Result<bool, EnforcerError> {
        let id = self.programs.id(kind)?;
        match kind {
            Kind::Xdp => {
                let hook = hook::query(self.interface, self.ifindex)?;
                self.xdp = hook.filter(|hook| hook.program_id == id).map(|h| h.mode);
                Ok(self.xdp.is_some())
            }
            Kind::Tcx => {
                let programs = hook::query_tcx(self.interface).unwrap_or_default();
                self.tcx = programs.iter().any(|(found, _)| *found == id);
                Ok(self.tcx)
            }
        }
    }

    /// The best mode that can be had, alone, and why none better.
    fn settle(&mut self, asked: XdpMode) -> Result<(AttachedMode, Vec<String>), EnforcerError> {
        let mut steps_down = Vec::new();
        let mut last = None;
        for mode in ladder(asked) {
            match self.take(*mode, asked) {
                Ok(()) => {
                    self.let_go_of_all_but(mode.kind())?;
                    return Ok((*mode, steps_down));
                }
                // Stepping around someone else's program would hide it from who put it there.
                Err(error @ EnforcerError::Occupied { .. }) => return Err(error),
                Err(error) => {
                    let why = chain(&error);
                    tracing::warn!("{why}");
                    steps_down.push(why);
                    last = Some(error);
                }
            }
        }
        Err(last.unwrap_or_else(|| EnforcerError::NoInterface {
            interface: self.interface.to_owned(),
            source: std::io::ErrorKind::NotFound.into(),
        }))
    }

    /// Makes this mode judge, whichever does now.
    fn take(&mut self, mode: AttachedMode, asked: XdpMode) -> Result<(), EnforcerError> {
        match (mode.kind(), self.xdp) {
            (Kind::Tcx, _) if self.tcx => Ok(()),
            (Kind::Tcx, held) => {
                if held.is_none() {
                    self.tell_of_strangers()?;
                }
                self.programs
                    .attach_tcx(self.interface, &self.own(Kind::Tcx))?;
                self.tcx = true;
                Ok(())
            }
            (Kind::Xdp, Some(held)) if held == mode => Ok(()),
            (Kind::Xdp, Some(held)) => self.change_xdp(held, mode, asked),
            (Kind::Xdp, None) => self.attach_xdp(mode),
        }
    }

    /// From native to generic or back, with the tcx hook judging in between.
    fn change_xdp(
        &mut self,
        held: AttachedMode,
        mode: AttachedMode,
        asked: XdpMode,
    ) -> Result<(), EnforcerError> {
        if let Err(error) = self.take(AttachedMode::Tcx, asked) {
            if asked == XdpMode::Auto {
                // What judges is good enough; a gap is not.
                return Err(error);
            }
            tracing::warn!(
                self.interface,
                from = held.as_str(),
                to = mode.as_str(),
                error = chain(&error),
                "nothing can cover while the mode changes: packets pass for some milliseconds"
            );
        }
        pin::remove(&self.own(Kind::Xdp))?;
        self.xdp = None;
        self.attach_xdp(mode)
    }

    fn attach_xdp(&mut self, mode: AttachedMode) -> Result<(), EnforcerError> {
        self.wait_until_free()?;
        let own = self.own(Kind::Xdp);
        let attached = self
            .programs
            .attach_xdp(self.interface, self.ifindex, mode, &own);
        if attached.is_err() {
            // Someone else may have been quicker since the hook was found free.
            self.check_free()?;
        }
        attached?;
        self.xdp = Some(mode);
        Ok(())
    }

    fn let_go_of_all_but(&mut self, kept: Kind) -> Result<(), EnforcerError> {
        for kind in Kind::ALL {
            if kind != kept {
                pin::remove(&self.own(kind))?;
            }
        }
        Ok(())
    }

    /// Other programs may stand beside ours at tcx, and at XDP before it: they are named.
    fn tell_of_strangers(&self) -> Result<(), EnforcerError> {
        if let Some(hook) = hook::query(self.interface, self.ifindex)? {
            let (id, name) = (hook.program_id, hook::program_name(hook.program_id));
            tracing::warn!(self.interface, id, name, "an XDP program runs before tcx");
        }
        for (id, name) in hook::query_tcx(self.interface).unwrap_or_default() {
            tracing::info!(self.interface, id, name, "runs at tcx too, after clawsec");
        }
        Ok(())
    }

    /// A link whose pin was just removed is detached by a kernel worker: give it a moment before
    /// the program at the hook is called someone else's.
    fn wait_until_free(&self) -> Result<(), EnforcerError> {
        for _ in 0..50 {
            if hook::query(self.interface, self.ifindex)?.is_none() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        self.check_free()
    }

    fn check_free(&self) -> Result<(), EnforcerError> {
        match hook::query(self.interface, self.ifindex)? {
            None => Ok(()),
            Some(hook) => Err(EnforcerError::Occupied {
                interface: self.interface.to_owned(),
                id: hook.program_id,
                name: hook::program_name(hook.program_id),
            }),
        }
    }
}

/// An error with its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // aya's transparent variants say the same twice.
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}
