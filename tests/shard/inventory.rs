//! What a core says that it holds.

use starling::chat::name::Nickname;
use starling::record::AccountState;
use starling::shard::reading::StoreNews;

use crate::cores::Cores;

#[test]
fn what_is_not_stored_yet_is_counted_whatever_it_is() {
    let mut cores = Cores::stored(1, |_| {});
    let carol = Nickname::parse("carol").unwrap();
    let account = AccountState { is_disabled: false, since_ms: 0 };
    cores.tell(0, StoreNews::Users(vec![(carol, Some(account))]));
    let ann = cores.enter(0, "ann", &["den"]);
    cores.slow_store(true);
    let unstored = |cores: &Cores| cores.shards[0].inventory().unstored;
    assert_eq!(unstored(&cores), 0);
    for content in ["1", "2", "3"] {
        cores.speak(ann, "den", content);
    }
    assert_eq!(unstored(&cores), 3);
    cores.say(ann, r#"{"type":"private","target":"carol","content":"psst"}"#);
    assert_eq!(unstored(&cores), 4);
    cores.slow_store(false);
    assert_eq!(unstored(&cores), 0);
}
