//! The `clawsec` program; everything is in the library.

fn main() -> std::process::ExitCode {
    clawsec_user::cli::main()
}
