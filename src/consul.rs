//! Registration with a Consul agent (HTTP API, "Service - Agent"), by which balancers and programs find the nodes: a thread of its own
//! registers this node, looks from time to time whether the agent still knows it, and takes it back when the server drains.
//!
//! Nothing waits for the agent but that thread: a server whose agent is away serves all the same.

use std::io::Read;
use std::net::IpAddr;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded};
use serde_json::{Value, json};
use ureq::Agent;
use ureq::http::StatusCode;

use crate::config::{Address, Config, Consul, ListenKind};
use crate::sys::complaint::Complaint;
use crate::sys::{host_name, threads};

/// How soon what has failed is tried again at first, and at the latest.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_LAST: Duration = Duration::from_secs(30);

/// Bytes of the agent's words that get into the log.
const WORDS_MAX: u64 = 300;

/// A node that is registered, or is about to be.
#[derive(Debug)]
pub struct Registration {
    /// Dropped to end it.
    ends: Option<Sender<()>>,
    /// Ends with the thread.
    ended: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl Registration {
    /// Takes the node back: who asks for the service is not sent here any more. Does not wait for the agent: the channel ends when that
    /// has heard of it, or has had its time.
    pub fn withdraw(&mut self) -> Receiver<()> {
        self.ends = None;
        self.ended.clone()
    }

    /// Waits until the agent has heard of it, or has had its time.
    pub fn stop(mut self) {
        self.withdraw();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Starts the thread, if an agent is configured.
///
/// # Errors
/// There is no listener to register, or no thread can be started.
pub fn start(
    config: &Config,
    addresses: &[(ListenKind, Address, bool)],
) -> Result<Option<Registration>, String> {
    let Some(agent) = &config.consul.agent else { return Ok(None) };
    let service = describe(&config.consul, addresses, &host_name())?;
    let deadline = Duration::from_millis(config.consul.deadline_ms);
    let client = Agent::config_builder()
        .timeout_global(Some(deadline))
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(None)
        .build();
    let id = service["ID"].as_str().expect("it is made with one").to_owned();
    let link = Link {
        client: client.into(),
        agent: agent.0.clone(),
        token: config.consul.token.as_ref().map(|token| token.0.clone()),
        id,
        service,
        is_registered: false,
    };
    let look = Duration::from_millis(config.consul.look_ms);
    let (ends, is_to_end) = bounded(0);
    let (lives, ended) = bounded(0);
    let thread = threads::spawn("consul".into(), move || {
        let _lives: Sender<()> = lives;
        link.run(look, &is_to_end);
    })
    .map_err(|error| format!("cannot start a thread: {error}"))?;
    Ok(Some(Registration { ends: Some(ends), ended, thread: Some(thread) }))
}

/// Looks whether there is a listener to register, if an agent is configured.
///
/// # Errors
/// As [`start`].
pub fn check(config: &Config, addresses: &[(ListenKind, Address, bool)]) -> Result<(), String> {
    match config.consul.agent {
        Some(_) => describe(&config.consul, addresses, &host_name()).map(drop),
        None => Ok(()),
    }
}

/// What the agent is told of this node.
fn describe(consul: &Consul, addresses: &[(ListenKind, Address, bool)], host: &str) -> Result<Value, String> {
    let sockets = addresses.iter().filter_map(|(kind, address, is_tls)| match address {
        Address::Socket(address) => Some((*kind, *address, *is_tls)),
        Address::Unix(_) => None,
    });
    let Some((_, web, is_tls)) = sockets.clone().find(|(kind, ..)| *kind == ListenKind::Web) else {
        return Err("consul.agent needs a web listener with a port, at which /health can be asked: add --web HOST:PORT".into());
    };
    let (ip, port) = (web.ip().to_canonical(), web.port());
    let address = consul.address.clone().or_else(|| (!ip.is_unspecified()).then(|| ip.to_string()));
    // The agent is on this machine.
    let checked = consul.address.clone().unwrap_or_else(|| match ip {
        IpAddr::V4(ip) if ip.is_unspecified() => "127.0.0.1".into(),
        IpAddr::V6(ip) if ip.is_unspecified() => "::1".into(),
        ip => ip.to_string(),
    });
    let checked = if checked.contains(':') { format!("[{checked}]") } else { checked };
    let scheme = if is_tls { "https" } else { "http" };
    let id = consul.id.clone().unwrap_or_else(|| format!("{}-{host}-{port}", consul.service));
    let mut meta = serde_json::Map::new();
    meta.insert("version".into(), env!("CARGO_PKG_VERSION").into());
    for (kind, address, is_tls) in sockets {
        // The first of each kind.
        let name = if is_tls { format!("{}_tls", kind.word()) } else { kind.word().to_owned() };
        meta.entry(name).or_insert_with(|| address.port().to_string().into());
    }
    let mut service = json!({
        "ID": id,
        "Name": consul.service,
        "Tags": consul.tags,
        "Port": port,
        "Meta": meta,
        "Check": {
            "Name": "starling /health",
            "HTTP": format!("{scheme}://{checked}:{port}/health"),
            // The certificate is for those who come by the node's name.
            "TLSSkipVerify": is_tls,
            "Interval": format!("{}ms", consul.check_ms),
            "Timeout": format!("{}ms", consul.deadline_ms),
            "DeregisterCriticalServiceAfter": format!("{}ms", consul.forget_ms),
        },
    });
    if let Some(address) = address {
        service["Address"] = address.into();
    }
    Ok(service)
}

struct Link {
    client: Agent,
    agent: String,
    token: Option<String>,
    id: String,
    service: Value,
    is_registered: bool,
}

impl Link {
    /// The life of the thread: until the other end of the channel is gone.
    fn run(mut self, look: Duration, ended: &Receiver<()>) {
        let (mut retry, mut complaint) = (RETRY_FIRST, Complaint::default());
        let mut said: Option<String> = None;
        loop {
            let wait = match self.tend() {
                Ok(()) => {
                    if said.take().is_some() {
                        log::info!("the Consul agent at {} does what it is asked again", self.agent);
                    }
                    (retry, complaint) = (RETRY_FIRST, Complaint::default());
                    look
                }
                Err(why) => {
                    // Another reason is news: an agent that was away refuses now.
                    if complaint.is_due() || said.as_ref() != Some(&why) {
                        log::warn!("the Consul agent at {} {why}; trying again", self.agent);
                        said = Some(why);
                    }
                    let wait = retry;
                    retry = (retry * 2).min(RETRY_LAST);
                    wait
                }
            };
            if !ended.recv_timeout(wait).is_err_and(|error| error.is_timeout()) {
                break;
            }
        }
        if self.is_registered {
            match self.ask("PUT", &format!("/v1/agent/service/deregister/{}", path_segment(&self.id)), None) {
                Ok(StatusCode::OK) => log::info!("{} is not registered with Consul any more", self.id),
                outcome => {
                    let why = outcome.map_or_else(|why| why, answered);
                    log::warn!(
                        "the Consul agent at {} keeps {} until its checks fail: {why}",
                        self.agent,
                        self.id
                    );
                }
            }
        }
    }

    /// Registers the node, if the agent does not know it.
    ///
    /// # Errors
    /// What the agent does not do, and why: what follows its name in a line for people.
    fn tend(&mut self) -> Result<(), String> {
        if self.is_registered {
            match self.ask("GET", &format!("/v1/agent/service/{}", path_segment(&self.id)), None) {
                Ok(StatusCode::OK) => return Ok(()),
                Ok(StatusCode::NOT_FOUND) => {
                    log::warn!("the Consul agent at {} has forgotten {}", self.agent, self.id)
                }
                outcome => {
                    let why = outcome.map_or_else(|why| why, answered);
                    return Err(format!("does not say whether it still knows this node: {why}"));
                }
            }
            self.is_registered = false;
        }
        // It may have heard of it although no answer comes back.
        self.is_registered = true;
        match self.ask("PUT", "/v1/agent/service/register?replace-existing-checks=true", Some(&self.service))
        {
            Ok(StatusCode::OK) => {
                log::info!("registered with the Consul agent at {} as {}", self.agent, self.id);
                Ok(())
            }
            outcome => {
                self.is_registered = false;
                let why = outcome.map_or_else(|why| why, answered);
                Err(format!("does not register this node: {why}"))
            }
        }
    }

    /// Asks the agent something; what it says of a failure goes with the error.
    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<StatusCode, String> {
        let url = format!("{}{path}", self.agent);
        let builder = ureq::http::Request::builder().method(method).uri(&url);
        let builder = match &self.token {
            Some(token) => builder.header("X-Consul-Token", token),
            None => builder,
        };
        let text = body.map_or_else(String::new, Value::to_string);
        let request = builder.header("Content-Type", "application/json").body(text);
        let request = request.map_err(|error| error.to_string())?;
        let mut response = self.client.run(request).map_err(|error| error.to_string())?;
        let status = response.status();
        if status.is_success() || status == StatusCode::NOT_FOUND && method == "GET" {
            return Ok(status);
        }
        let mut words = Vec::new();
        // What is cut off in the middle says something too.
        let _ = response.body_mut().as_reader().take(WORDS_MAX).read_to_end(&mut words);
        let words = String::from_utf8_lossy(&words);
        let mut why = answered(status);
        if !words.trim().is_empty() {
            why.push_str(&format!(": {}", words.trim().escape_debug()));
        }
        if matches!(status, StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED) {
            let service = self.service["Name"].as_str().unwrap_or_default();
            let token = if self.token.is_some() {
                "the policy of consul.token"
            } else {
                "consul.token is not set: its policy"
            };
            why.push_str(&format!(" ({token} must allow service:write for {service})"));
        }
        Err(why)
    }
}

fn answered(status: StatusCode) -> String {
    format!("it answered {status}")
}

/// An id in a path (RFC 3986, section 3.3).
fn path_segment(id: &str) -> String {
    let mut out = String::with_capacity(id.len());
    for byte in id.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte.into()),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listening(web: &str) -> Vec<(ListenKind, Address, bool)> {
        let address = |text: &str| Address::try_from(text.to_owned()).expect("an address");
        vec![
            (ListenKind::Line, address("127.0.0.1:9000"), false),
            (ListenKind::Web, address("unix:/run/web"), false),
            (ListenKind::Web, address(web), true),
        ]
    }

    #[test]
    fn a_node_is_told_with_its_ports_and_its_check() {
        let consul = Consul::default();
        let told = describe(&consul, &listening("10.0.0.7:8443"), "box").expect("it has a port");
        assert_eq!(told["ID"], "starling-box-8443");
        assert_eq!((&told["Address"], &told["Port"]), (&json!("10.0.0.7"), &json!(8443)));
        assert_eq!(told["Meta"]["line"], "9000");
        assert_eq!(told["Meta"]["web_tls"], "8443");
        assert_eq!(told["Check"]["HTTP"], "https://10.0.0.7:8443/health");
        assert_eq!(told["Check"]["TLSSkipVerify"], true);
        assert_eq!(told["Check"]["Interval"], "10000ms");
    }

    #[test]
    fn a_listener_for_all_addresses_is_reached_by_that_of_the_agent_or_the_configured_one() {
        let told = describe(&Consul::default(), &listening("[::]:80"), "box").expect("it has a port");
        assert_eq!(told.get("Address"), None);
        assert_eq!(told["Check"]["HTTP"], "https://[::1]:80/health");
        let consul =
            Consul { address: Some("chat.example".into()), id: Some("one".into()), ..Consul::default() };
        let told = describe(&consul, &listening("0.0.0.0:80"), "box").expect("it has a port");
        assert_eq!((&told["ID"], &told["Address"]), (&json!("one"), &json!("chat.example")));
        assert_eq!(told["Check"]["HTTP"], "https://chat.example:80/health");
        describe(&consul, &listening("unix:/run/other"), "box").expect_err("there is no port to register");
    }

    #[test]
    fn ids_stay_one_segment() {
        assert_eq!(path_segment("a/b c-1"), "a%2Fb%20c-1");
    }
}
