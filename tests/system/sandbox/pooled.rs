//! The same rules where a sandbox stands ready: it is another way through the provider.

use std::time::Duration;

use clawsec_user::config::SandboxProvider;
use clawsec_user::sandbox::Sandbox;

use super::{
    arguments, background_processes_end, environment, exit_codes, finish, fork_bomb, hello,
    lifetime, memory_bomb, missing_programs, no_dangerous_calls, no_inherited_descriptors,
    no_network, no_rights, ordinary_user, output_cap, read_only_root, setup, signals, stdin,
    timeout, workdir,
};

macro_rules! pooled {
    ($module:ident, $provider:expr) => {
        mod $module {
            use clawsec_user::config::SandboxProvider;

            provider! { @rows super::open($provider),
                hello, exit_codes, signals, arguments, missing_programs, stdin, environment,
                timeout, output_cap, memory_bomb, fork_bomb, no_network, read_only_root,
                ordinary_user, no_rights, no_dangerous_calls, no_inherited_descriptors,
                background_processes_end, workdir,
            }
            provider! { @lifetime $provider, what_stands_ready_is_used_once, }
        }
    };
}

pooled!(docker, SandboxProvider::Docker);
pooled!(native, SandboxProvider::Native);

async fn open(provider: SandboxProvider) -> Sandbox {
    let sandbox = setup::open_pooled_as(provider, &lifetime::unique("pool")).await;
    assert!(sandbox.warm_up(Duration::from_secs(30)).await, "warm up");
    sandbox
}
