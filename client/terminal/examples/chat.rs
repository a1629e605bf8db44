//! `starling chat` by itself, without the server's program around it.

use std::process::ExitCode;

use clap::Parser;
use starling_chat::{EXAMPLES, Flags, Outcome};

#[derive(Parser)]
#[command(name = "chat", after_help = EXAMPLES)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
}

fn main() -> ExitCode {
    match starling_chat::run(&Arguments::parse().flags) {
        Outcome::Done => ExitCode::SUCCESS,
        Outcome::Failed(why) => {
            eprintln!("starling: {why}");
            ExitCode::from(1)
        }
        Outcome::Usage(why) => {
            eprintln!("starling: {why}");
            ExitCode::from(2)
        }
    }
}
