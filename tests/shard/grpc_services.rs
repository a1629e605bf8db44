//! Calls that do not chat: logging in, health, reflection.

use prost::Message;
use starling::config::Config;
use starling::proto::grpc::health::{HealthCheckRequest, HealthCheckResponse, HealthListResponse};
use starling::proto::protobuf::schema::{LoginRequest, LoginResponse};
use starling::shard::accounts::{AccountAction, AccountOutcome};
use starling::shard::mail::Mail;
use starling::shard::reading::{StoreNews, StoreRequest};

use crate::calls::Caller;
use crate::cores::Cores;
use crate::tokens::{self, nickname};

const CHECK: &str = "/grpc.health.v1.Health/Check";
const LIST: &str = "/grpc.health.v1.Health/List";
const WATCH: &str = "/grpc.health.v1.Health/Watch";
const LOGIN: &str = "/chat.ChatService/Login";
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

const SERVING: i32 = 1;
const NOT_SERVING: i32 = 2;
const SERVICE_UNKNOWN: i32 = 3;

fn health_of(service: &str) -> Vec<u8> {
    HealthCheckRequest { service: service.to_owned() }.encode_to_vec()
}

fn ok() -> Option<(u16, String)> {
    Some((0, String::new()))
}

#[test]
fn the_health_of_each_service_is_told_and_when_it_changes() {
    let mut cores = Cores::new(|config| config.drain.delay_ms = 1_000);
    let mut caller = Caller::new(&mut cores, 0);
    let mut check = |cores: &mut Cores, service: &str| {
        let call = caller.call(cores, CHECK, &[], &[health_of(service)], true);
        let heard = caller.heard::<HealthCheckResponse>(cores, call);
        (heard.iter().map(|it| it.status).collect::<Vec<i32>>(), caller.status(cores, call))
    };
    let not_found = Some((5, "not_found".to_owned()));
    for service in ["", "chat.ChatService", "grpc.health.v1.Health"] {
        assert_eq!(check(&mut cores, service), (vec![SERVING], ok()), "{service}");
    }
    assert_eq!(check(&mut cores, "chat"), (vec![], not_found));

    let mut caller = Caller::new(&mut cores, 0);
    let list = caller.call(&mut cores, LIST, &[], &[Vec::new()], true);
    let statuses = caller.heard::<HealthListResponse>(&mut cores, list).remove(0).statuses;
    assert!(statuses.values().all(|it| it.status == SERVING));
    assert!(statuses.contains_key("") && statuses.contains_key("chat.ChatService"));
    assert_eq!(caller.status(&mut cores, list), ok());
    let watches = ["chat.ChatService", "chat"]
        .map(|service| caller.call(&mut cores, WATCH, &[], &[health_of(service)], true));
    let told = |caller: &mut Caller, cores: &mut Cores| {
        watches.map(|call| {
            caller.heard::<HealthCheckResponse>(cores, call).iter().map(|it| it.status).collect::<Vec<i32>>()
        })
    };
    assert_eq!(told(&mut caller, &mut cores), [[SERVING], [SERVICE_UNKNOWN]]);
    cores.pass(60_000);
    assert_eq!(watches.map(|call| caller.status(&mut cores, call)), [None, None], "for as long as one likes");
    cores.shards[0].drain();
    assert_eq!(told(&mut caller, &mut cores), [[0; 0]; 2]);
    let mut late = Caller::new(&mut cores, 0);
    let call = late.call(&mut cores, CHECK, &[], &[health_of("")], true);
    assert_eq!(
        late.heard::<HealthCheckResponse>(&mut cores, call)[0].status,
        NOT_SERVING,
        "the same that /ready says"
    );
    cores.pass(1_000);
    assert_eq!(told(&mut caller, &mut cores), [[NOT_SERVING]; 2]);
    let draining = Some((14, "draining".to_owned()));
    assert_eq!(watches.map(|call| caller.status(&mut cores, call)), [draining.clone(), draining]);
}

#[test]
fn what_is_no_request_about_health_ends_its_call() {
    let mut cores = Cores::new(|_| {});
    let mut caller = Caller::new(&mut cores, 0);
    let bad = Some((3, "bad_request".to_owned()));
    for path in [CHECK, WATCH] {
        let call = caller.call(&mut cores, path, &[], &[vec![0xff]], false);
        assert_eq!(caller.status(&mut cores, call), bad);
    }
    let call = caller.call(&mut cores, REFLECTION, &[], &[vec![0xff]], false);
    assert_eq!(caller.status(&mut cores, call), bad);
    let call = caller.call(&mut cores, LOGIN, &[], &[vec![0xff]], false);
    assert_eq!(caller.status(&mut cores, call), Some((5, "not_found".to_owned())), "there are no accounts");
}

/// A request of reflection for the list of services.
const LIST_SERVICES: &[u8] = &[0x3a, 0x01, b'*'];

#[test]
fn reflection_answers_each_question_and_no_more_than_are_taken() {
    let mut cores = Cores::new(|config| config.limits.output_pause_bytes = 1024);
    let mut caller = Caller::new(&mut cores, 0);
    let call = caller.call(&mut cores, REFLECTION, &[], &vec![LIST_SERVICES.to_vec(); 2], false);
    let answers = caller.heard_bytes(&mut cores, call);
    assert_eq!(answers.len(), 2);
    let answer = String::from_utf8_lossy(&answers[1]);
    assert!(answer.contains("chat.ChatService") && answers[0] == answers[1], "{answer}");
    let pauses = |cores: &Cores| cores.total(|counters| &counters.output_pauses);
    assert_eq!(pauses(&cores), 0);
    caller.say_bytes(&mut cores, call, &[&[0, 0, 0, 0, 3][..], LIST_SERVICES].concat().repeat(100));
    assert_eq!(caller.heard_bytes(&mut cores, call).len(), 100);
    let at_a_time = 1024 / (5 + answers[0].len()) + 1;
    assert_eq!(pauses(&cores), (100 / at_a_time) as u64);
    assert_eq!(caller.status(&mut cores, call), None);
    caller.end(&mut cores, call);
    assert_eq!(caller.status(&mut cores, call), ok());
}

/// A server with accounts, whose store does nothing by itself.
fn server(set: impl FnOnce(&mut Config)) -> Cores {
    let mut cores = Cores::made(1, set, |flock| {
        tokens::arrange(flock);
        flock.has_store = true;
    });
    cores.slow_store(true);
    cores
}

#[test]
fn who_logs_in_is_answered_when_the_password_has_been_looked_at() {
    let mut cores = server(|config| config.auth.account_token_s = 60);
    let mut caller = Caller::new(&mut cores, 0);
    let login =
        |password: &str| LoginRequest { username: "Alice".into(), password: password.into() }.encode_to_vec();
    let now_ms = cores.unix_ms();
    let mut log_in = |cores: &mut Cores, outcome: AccountOutcome| {
        let call = caller.call(cores, LOGIN, &[], &[login("correct horse"), login("another")], true);
        let Some((0, Mail::StoreRequest { request: StoreRequest::Account { request, wait }, .. })) =
            cores.asked.pop_front()
        else {
            panic!("the threads are asked");
        };
        assert_eq!((request.action, request.name.as_str()), (AccountAction::Login, "Alice"));
        assert_eq!((request.password.as_str(), request.asked.request), ("correct horse", None));
        assert!(cores.asked.is_empty(), "one message is enough");
        assert_eq!(caller.status(cores, call), None);
        assert_eq!(cores.shards[0].inventory().under_way, 1);
        cores.tell(0, StoreNews::Account { wait, outcome });
        assert_eq!(cores.shards[0].inventory().under_way, 0);
        (caller.heard::<LoginResponse>(cores, call), caller.status(cores, call))
    };
    let granted = AccountOutcome::Granted { name: nickname("alice"), since_ms: now_ms };
    let (answers, status) = log_in(&mut cores, granted);
    assert_eq!((answers.len(), status), (1, ok()));
    assert!(answers[0].success && !answers[0].token.is_empty());
    assert_eq!(answers[0].expires_at as u64, now_ms + 60_000);
    let wrong = log_in(&mut cores, AccountOutcome::BadCredentials);
    assert_eq!(wrong, (vec![], Some((16, "bad_credentials".to_owned()))));
    assert_eq!(log_in(&mut cores, AccountOutcome::Busy).1, Some((14, "unavailable".to_owned())));

    let call = caller.call(&mut cores, LOGIN, &[], &[login(&"x".repeat(1025))], true);
    assert_eq!(caller.status(&mut cores, call), Some((8, "too_large".to_owned())));
    let call = caller.call(&mut cores, LOGIN, &[], &[vec![0xff]], true);
    assert_eq!(caller.status(&mut cores, call), Some((3, "bad_request".to_owned())));
    assert!(cores.asked.is_empty());
}
