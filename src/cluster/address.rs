//! Where the backplane is, and how a connection to it begins.

use std::path::Path;
use std::time::Duration;

use redis::io::tcp::TcpSettings;
use redis::{
    Client, Connection, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, RedisError,
    TlsCertificates,
};

use super::ClusterError;
use crate::config::Cluster;
use crate::sys::files;

/// One server: where it is, and what it is told first. The name has no password.
#[derive(Clone)]
pub(super) struct Address {
    /// For people.
    pub(super) name: String,
    info: ConnectionInfo,
}

impl std::fmt::Debug for Address {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Address({})", self.name)
    }
}

/// What the URLs that are configured say.
pub(super) fn urls(config: &Cluster) -> Result<Vec<ConnectionInfo>, ClusterError> {
    let one = |(index, url): (usize, &crate::config::Secret)| {
        let unread = |_| ClusterError::new(format!("cluster.redis: URL {} is no URL", index + 1));
        url.0.as_str().into_connection_info().map_err(unread)
    };
    config.redis.0.iter().enumerate().map(one).collect()
}

/// Those that are configured.
pub(super) fn configured(config: &Cluster) -> Result<Vec<Address>, ClusterError> {
    let ca = config.ca.as_deref().map(read).transpose()?;
    let one = |(index, mut info): (usize, ConnectionInfo)| {
        // The library's own words could quote the password.
        let wrong = |error: &RedisError| {
            let why = error.detail().unwrap_or_else(|| error.category()).to_owned();
            ClusterError::new(format!("cluster.redis: URL {} cannot be used: {why}", index + 1))
        };
        if let (Some(ca), ConnectionAddr::TcpTls { .. }) = (&ca, info.addr()) {
            let certificates = TlsCertificates { client_tls: None, root_cert: Some(ca.clone()) };
            let client = Client::build_with_tls(info, certificates).map_err(|error| wrong(&error))?;
            info = client.get_connection_info().clone();
        }
        // Commands are small and waited for.
        let settings = TcpSettings::default().set_nodelay(true);
        let settled = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP2);
        let info = info.set_tcp_settings(settings).set_redis_settings(settled);
        Ok(Address { name: info.addr().to_string(), info })
    };
    urls(config)?.into_iter().enumerate().map(one).collect()
}

/// Bytes of the file of authorities: all that browsers trust take a fifth of it.
const CA_BYTES_MAX: u64 = 1_048_576;

fn read(path: &Path) -> Result<Vec<u8>, ClusterError> {
    let refused = |why: String| ClusterError::new(format!("cluster.ca: {why}"));
    let pem = files::read_regular(path, CA_BYTES_MAX)
        .map_err(|error| refused(format!("cannot read {}: {error}", path.display())))?;
    match memchr::memmem::find(&pem, b"-----BEGIN CERTIFICATE-----") {
        Some(_) => Ok(pem),
        None => Err(refused(format!("there is no certificate in {} (in PEM)", path.display()))),
    }
}

impl Address {
    /// The same server, or another one of the same Redis Cluster, at a host and port.
    pub(super) fn at(&self, host: &str, port: u16) -> Self {
        let host = host.to_owned();
        let addr = match self.info.addr() {
            ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
                ConnectionAddr::TcpTls { host, port, insecure: *insecure, tls_params: tls_params.clone() }
            }
            _ => ConnectionAddr::Tcp(host, port),
        };
        let info = self.info.clone().set_addr(addr);
        Address { name: info.addr().to_string(), info }
    }

    /// The host, if it has one.
    pub(super) fn host(&self) -> Option<&str> {
        match self.info.addr() {
            ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } => Some(host),
            _ => None,
        }
    }

    /// Connects and logs in.
    pub(super) fn connect(&self, timeout: Duration) -> Result<Connection, String> {
        let connected =
            Client::open(self.info.clone()).and_then(|client| client.get_connection_with_timeout(timeout));
        let is_tls = matches!(self.info.addr(), ConnectionAddr::TcpTls { .. });
        connected.map_err(|error| {
            let why = explain(&error);
            let hint = if is_tls && error.is_timeout() { " (does it speak TLS?)" } else { "" };
            format!("{}: {why}{hint}", self.name)
        })
    }
}

/// What is said of a server that lets somebody wait in vain.
pub(super) const NOT_IN_TIME: &str = "it does not answer in time";

/// What went wrong with a connection that is being made, and what may help.
pub(super) fn explain(error: &RedisError) -> String {
    explain_as(error, true)
}

/// The same of one that has worked.
pub(super) fn explain_broken(error: &RedisError) -> String {
    explain_as(error, false)
}

fn explain_as(error: &RedisError, is_new: bool) -> String {
    // One line, whatever has answered.
    let text = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    if error.is_connection_refusal() {
        return format!("{text}: is it running?");
    }
    if error.is_timeout() || text.contains("temporarily unavailable") {
        return NOT_IN_TIME.to_owned();
    }
    if text.contains("Parse error") {
        return "what answers there does not speak the protocol of Redis".to_owned();
    }
    // Of one that has worked that is not the reason.
    if !is_new && (error.is_io_error() || error.is_connection_dropped()) {
        // Without the page that rustls refers to.
        return text.split(": https://").next().unwrap_or_default().to_owned();
    }
    // The library quotes the code of an error that it does not know.
    match text.strip_prefix('"').and_then(|rest| rest.split_once("\": ")) {
        Some((code, detail)) => advised(&format!("{code} {detail}")),
        None => advised(&text),
    }
}

/// What a server says, and what may help.
pub(super) fn advised(text: &str) -> String {
    const ADVICE: &[(&[&str], &str)] = &[
        (&["NOAUTH", "WRONGPASS", "uthentication"], "look at user and password in cluster.redis"),
        (&["UnknownIssuer", "certificate"], "look at cluster.ca and at the name in the certificate"),
        (
            &["NOPERM", "NoPerm", "can't run this command"],
            "the user in cluster.redis lacks rights; docs/cluster.md has those that are needed",
        ),
        (&["WRONGTYPE"], "a key of another kind is in the way of one of starling's: look at cluster.prefix"),
        (&["OOM"], "it is full: raise its maxmemory, or make room"),
        (
            &["NOREPLICAS"],
            "it takes no writes without replicas that follow: start them, or lower its min-replicas-to-write",
        ),
        (
            &["CLUSTERDOWN", "no server has the slot"],
            "a Redis Cluster that was just made, or whose server has just come back, needs some seconds; otherwise some of its slots have \
             no server that answers: look at redis-cli --cluster check",
        ),
        (&["DB index"], "look at the number of the database behind the host in cluster.redis"),
        (&["lookup", "resolve", "not known"], "look at the name of the host in cluster.redis"),
        (&["onnection reset", "nexpected end", "closed by", "roken pipe"], "does it want TLS (rediss://)?"),
    ];
    let fits = |signs: &[&str]| signs.iter().any(|sign| text.contains(sign));
    match ADVICE.iter().find(|(signs, _)| fits(signs)) {
        Some((_, advice)) => format!("{text}: {advice}"),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_wrong_comes_with_advice() {
        let said = advised("NOPERM this user has no permissions to run the 'set' command");
        assert!(said.contains("docs/cluster.md"), "{said}");
        let said = advised("NOREPLICAS Not enough good replicas to write.");
        assert!(said.contains("min-replicas-to-write"), "{said}");
        assert!(advised("OOM command not allowed").contains("maxmemory"));
        assert!(advised("CLUSTERDOWN The cluster is down").contains("--cluster check"));
        assert_eq!(advised("ERR syntax error"), "ERR syntax error");
    }
}
