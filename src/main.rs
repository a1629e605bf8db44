//! Arguments in, exit code out: 0 when all went well, 1 for a failure at run time, 2 for a mistake in the arguments
//! or in the configuration.

use std::process::ExitCode;

use starling::cli::{self, Command};

fn main() -> ExitCode {
    match cli::arguments() {
        Ok(Command::Serve(flags)) => cli::serve::run(&flags),
        Ok(Command::Config(flags)) => cli::config::run(&flags),
        Ok(Command::Check(flags)) => cli::check::run(flags),
        Ok(Command::Doctor(flags)) => cli::doctor::run(&flags),
        Ok(Command::Token(flags)) => cli::token::run(&flags),
        Ok(Command::Cert(flags)) => cli::cert::run(&flags),
        Ok(Command::User(command)) => cli::user::run(&command),
        Ok(Command::Store(command)) => cli::store::run(&command),
        Ok(Command::Top(flags)) => cli::top::run(&flags),
        Ok(Command::Chat(flags)) => cli::chat::run(&flags),
        Ok(Command::Bench(flags)) => cli::bench::run(&flags),
        Ok(Command::Completions(flags)) => cli::completions::run(&flags),
        Ok(Command::Man(flags)) => cli::man::run(&flags),
        Err(code) => code,
    }
}
