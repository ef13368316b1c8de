//! `clawsec top` started by `clawsec`, or by hand.

use std::process::ExitCode;

fn main() -> ExitCode {
    clawsec_top::main()
}
