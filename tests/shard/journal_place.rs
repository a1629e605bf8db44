//! Messages that wait for place in the journal.

use crate::cores::Cores;

#[test]
fn of_those_that_have_waited_as_many_are_let_in_together_as_a_quarter_of_what_may_be_queued() {
    let mut cores = Cores::stored(1, |config| config.limits.send_queue_bytes = 40_000);
    let alice = cores.enter(0, "alice", &["den"]);
    cores.journal_bytes = 0;
    cores.turn();
    for _ in 0..10 {
        cores.speak(alice, "den", &"x".repeat(3_000));
    }
    let published = |cores: &Cores| cores.total(|counters| &counters.published);
    assert_eq!((cores.total(|counters| &counters.journal_waits), published(&cores)), (10, 0));
    cores.journal_bytes = 1 << 24;
    // What is still left of 10,000 bytes lets one more in.
    for count in [4, 8, 10] {
        cores.pass(2);
        assert_eq!(published(&cores), count);
    }
}
