//! What an admin says to many.

use serde_json::json;
use starling::config::ListenKind;

use crate::cores::Cores;

#[test]
fn whoever_has_no_nickname_yet_is_not_told_and_not_counted() {
    let mut cores = Cores::of(2, |_| {});
    let admin = cores.enter_admin(0, "root", &[]);
    let bob = cores.name_at(0, "bob");
    let client = cores.connect(1, ListenKind::Line);
    // The other core is asked for the nickname, and then comes what the admin says.
    let hello = json!({ "type": "hello", "nickname": bob }).to_string() + "\n";
    cores.shards[1].receive(client.id, &mut hello.into_bytes());
    let broadcast = json!({ "type": "broadcast", "content": "all", "id": "1" }).to_string() + "\n";
    cores.shards[0].receive(admin.id, &mut broadcast.into_bytes());
    cores.carry(0, 1);
    cores.settle();
    assert_eq!(cores.told(admin, "ack", "sessions"), [1]);
    let types: Vec<_> = cores.events(client).iter().map(|event| event["type"].clone()).collect();
    assert_eq!(types, ["welcome"]);
}
