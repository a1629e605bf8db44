//! Calls that do not chat: logging in, health, reflection.

use prost::Message;

use super::call::status_of;
use crate::base::slots::Id;
use crate::chat::refusal::{Reason, Refusal};
use crate::proto::grpc::health::health_check_response::ServingStatus;
use crate::proto::grpc::health::{HealthCheckRequest, HealthCheckResponse, HealthListResponse};
use crate::proto::grpc::{self, Code, Method, Status, reflection};
use crate::shard::Shard;
use crate::shard::accounts::AccountAction;
use crate::shard::mail::ConnectionRef;

impl Shard {
    /// Hears a `LoginRequest`, and says whether the next message may be looked at.
    pub(super) fn hear_login(&mut self, id: Id, bytes: &[u8]) -> bool {
        if let Err(refusal) = self.log_in(id, bytes) {
            self.refuse_call(id, &refusal);
        }
        false
    }

    fn log_in(&mut self, id: Id, bytes: &[u8]) -> Result<(), Refusal> {
        if self.authority.accounts.is_none() {
            return Err(Refusal::new(Reason::NotFound, self.why_no_accounts()));
        }
        let (username, password) =
            grpc::read_login(bytes).map_err(|why| Refusal::new(Reason::BadRequest, why))?;
        let request = self.check_credentials(id, AccountAction::Login, &username, password, None)?;
        let store = self.store();
        self.window[usize::from(store)] += 1;
        self.ask_about_account(ConnectionRef { core: self.core, connection: id }, request);
        self.await_reply(id);
        Ok(())
    }

    /// Hears a request about health, and says whether the next message may be looked at.
    pub(super) fn hear_health(&mut self, id: Id, method: Method, bytes: &[u8]) -> bool {
        let own = self.serving_status();
        if method == Method::HealthList {
            let status = HealthCheckResponse { status: own.into() };
            let names = std::iter::once("").chain(reflection::services());
            let statuses = names.map(|name| (name.to_owned(), status)).collect();
            self.say_message(id, &HealthListResponse { statuses });
            self.end_call(id, Status::OK);
            return false;
        }
        let service = match HealthCheckRequest::decode(bytes) {
            Ok(request) => request.service,
            Err(error) => {
                let refusal = Refusal::new(Reason::BadRequest, error.to_string());
                self.end_call(id, status_of(&refusal));
                return false;
            }
        };
        let is_known = service.is_empty() || reflection::services().any(|name| name == service);
        match (method, is_known) {
            (Method::HealthWatch, _) => {
                let status = if is_known { own } else { ServingStatus::ServiceUnknown };
                self.say_message(id, &HealthCheckResponse { status: status.into() });
            }
            (_, true) => {
                self.say_message(id, &HealthCheckResponse { status: own.into() });
                self.end_call(id, Status::OK);
            }
            (_, false) => {
                let message = format!("there is no service {service}");
                self.end_call(id, Status::new(Code::NotFound, Reason::NotFound.as_str(), message));
            }
        }
        true
    }

    /// Tells whoever watches the server's health that it is about to stop.
    pub(in crate::shard) fn tell_watcher(&mut self, id: Id) {
        if self.call_mut(id).is_some_and(|call| call.method == Method::HealthWatch && call.has_asked) {
            self.say_message(id, &HealthCheckResponse { status: ServingStatus::NotServing.into() });
        }
    }

    /// The same that `/ready` says.
    fn serving_status(&self) -> ServingStatus {
        if self.is_draining() { ServingStatus::NotServing } else { ServingStatus::Serving }
    }

    /// Hears a request of server reflection, and says whether the next message may be looked at.
    pub(super) fn hear_reflection(&mut self, id: Id, bytes: &[u8]) -> bool {
        let mut answer = Vec::new();
        match reflection::answer(bytes, &mut answer) {
            Ok(()) => self.say_raw(id, |out| grpc::put(out, |out| out.append(&mut answer))),
            Err(why) => {
                self.end_call(id, status_of(&Refusal::new(Reason::BadRequest, why)));
            }
        }
        !self.pause_if_unread(id)
    }

    fn say_message(&mut self, id: Id, message: &impl Message) {
        self.say_raw(id, |out| {
            grpc::put(out, |out| message.encode(out).expect("a vector takes every byte"));
        });
    }
}
