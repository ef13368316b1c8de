//! The verifier's view: every program loads, and costs it no more than the golden file says.

use super::program::Program;
use clawsec_common::abi::name;

#[test]
fn loads() {
    for (program, log) in [
        (name::PROGRAM, false),
        (name::PROGRAM_CLOCKED, false),
        (name::PROGRAM, true),
    ] {
        let p = Program::load(program, log).unwrap();
        let i = p.info().unwrap();
        println!(
            "{program} {log} verified {:?} xlated {:?}",
            i.verified_instruction_count(),
            i.size_translated()
        );
    }
}
