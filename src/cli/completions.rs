//! `starling completions SHELL`: what a shell needs to complete the arguments, made of the flags themselves.

use std::process::ExitCode;

use clap::Args;
use clap_complete::{Shell, generate};

use super::{EXIT_FAILURE, PROGRAM, command, fail, write};

pub(super) const EXAMPLES: &str = "\
Examples:
  starling completions bash > ~/.local/share/bash-completion/completions/starling
  starling completions zsh > ~/.zfunc/_starling        a directory of $fpath, before compinit
  starling completions fish > ~/.config/fish/completions/starling.fish
  starling completions elvish > ~/.config/elvish/lib/starling.elv      and: use starling
  starling completions powershell | Out-String | Invoke-Expression     in $PROFILE

The Debian package has those of bash, zsh and fish in their places.

Exit codes: 0 ok, 1 standard output could not be written, 2 no such shell.";

/// For which shell.
#[derive(Args, Debug)]
pub struct CompletionsFlags {
    /// The shell that is to complete
    #[arg(value_name = "SHELL", value_enum)]
    shell: Shell,
}

/// Prints the completions: exit code 0, or 1 where they cannot be written.
pub fn run(flags: &CompletionsFlags) -> ExitCode {
    let mut script = Vec::new();
    // Into memory: it panics where it cannot write, as into a closed pipe.
    generate(flags.shell, &mut command(), PROGRAM, &mut script);
    match write(&script) {
        Ok(_) => ExitCode::SUCCESS,
        Err(why) => fail(EXIT_FAILURE, why),
    }
}
