//! Rooms at their home.

use crate::cores::Cores;

#[test]
fn rooms_that_nobody_is_in_make_place_for_others() {
    let mut cores = Cores::new(|config| config.limits.rooms = 2);
    let alice = cores.enter(0, "alice", &["one", "two"]);
    let refused = cores.call(alice, r#"{"type":"join","room":"three"}"#);
    assert_eq!(refused["reason"], "too_many_rooms");
    assert_eq!(cores.total(|counters| &counters.rooms_full), 1);
    cores.speak(alice, "two", "what is worth keeping");
    cores.call(alice, r#"{"type":"leave","room":"two"}"#);
    assert_eq!(cores.total(|counters| &counters.rooms), 2);
    assert_eq!(cores.call(alice, r#"{"type":"join","room":"three"}"#)["type"], "joined");
    assert_eq!(cores.total(|counters| &counters.rooms), 2);
    // The lobby is on top.
    assert_eq!(cores.call(alice, r#"{"type":"join","room":"lobby"}"#)["type"], "joined");
    assert_eq!(cores.total(|counters| &counters.rooms), 3);
    assert_eq!(cores.call(alice, r#"{"type":"join","room":"four"}"#)["reason"], "too_many_rooms");
}
