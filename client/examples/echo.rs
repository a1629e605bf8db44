//! A bot that says again what it is told: `echo hello` in its room, or anything in private.
//!
//! ```console
//! $ cargo run -p starling-client --example echo -- ws://127.0.0.1:8080/ws parrot lobby
//! ```

use std::error::Error;

use starling_client::{Client, Event, Options};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().unwrap_or_else(|| "ws://127.0.0.1:8080/ws".to_owned());
    let nickname = arguments.next().unwrap_or_else(|| "parrot".to_owned());
    let room = arguments.next().unwrap_or_else(|| "lobby".to_owned());

    let client = Client::connect(Options::new(url).nickname(nickname))?;
    client.join(&room)?;
    for event in client.events() {
        match event {
            Event::Message(message) if Some(&message.sender) != client.nickname().as_ref() => {
                if let Some(words) = message.content.strip_prefix("echo ") {
                    client.send(&message.room, words)?;
                }
            }
            Event::Private(private) => {
                client.private(&private.sender, &private.content)?;
            }
            Event::Gap(gap) => eprintln!("{}: {} to {} are gone", gap.room, gap.from, gap.to),
            Event::Waiting { delay, reason } => eprintln!("{reason}; again in {delay:?}"),
            // Somebody else has the nickname, for example: only a person knows what to do.
            Event::Stopped(reason) => return Err(reason.to_string().into()),
            _ => {}
        }
    }
    Ok(())
}
