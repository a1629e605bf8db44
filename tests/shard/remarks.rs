//! What is told of a turn that took too long.

use crate::cores::Cores;

#[test]
fn a_turn_is_told_by_the_mail_that_came_in_it() {
    let mut cores = Cores::of(2, |_| {});
    let room = cores.name_at(1, "den");
    let alice = cores.enter(0, "alice", &[&room]);
    cores.turn();
    assert_eq!(cores.shards[1].describe_turn(), "");
    for count in 1..=2 {
        let said = format!("{{\"type\":\"message\",\"room\":\"{room}\",\"content\":\"x\"}}\n");
        cores.shards[0].receive(alice.id, &mut said.into_bytes());
        for mail in std::mem::take(&mut cores.shards[0].outboxes()[1]) {
            cores.shards[1].note_mail(&mail);
            cores.shards[1].mail(mail);
        }
        assert_eq!(cores.shards[1].describe_turn(), format!("; mail from other cores: {count}"));
    }
}

#[test]
fn of_rooms_that_are_as_much_the_first_is_told() {
    let mut cores = Cores::new(|_| {});
    let alice = cores.enter(0, "alice", &["one", "two", "three"]);
    let told = |cores: &mut Cores, talk: [(&str, &str); 2]| {
        cores.turn();
        for (room, content) in talk {
            let said = format!("{{\"type\":\"message\",\"room\":\"{room}\",\"content\":\"{content}\"}}\n");
            cores.shards[0].receive(alice.id, &mut said.into_bytes());
            cores.shards[0].send_gathered_events();
        }
        let told = cores.shards[0].describe_turn();
        cores.settle();
        told.split("fan-out: ").nth(1).unwrap().split(',').next().unwrap().to_owned()
    };
    assert_eq!(told(&mut cores, [("one", "a"), ("two", "b")]), "room one");
    assert_eq!(told(&mut cores, [("two", "b"), ("one", "a")]), "room two");
    assert_eq!(told(&mut cores, [("two", "b"), ("one", "ab")]), "room one");
}
