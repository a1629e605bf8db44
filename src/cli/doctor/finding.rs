//! What a check comes to, and the commands that follow from it.

use serde::Serialize;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    /// As the server wants it.
    Ok,
    /// Worth knowing, or not known.
    Note,
    /// Costs something that somebody will notice.
    Warning,
}

impl Status {
    /// As it is printed.
    pub(super) fn word(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Note => "note",
            Status::Warning => "warning",
        }
    }
}

/// Where a setting is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A key of sysctl(8).
    Sysctl,
    /// A file of sysfs(5).
    File,
    /// RLIMIT_NOFILE, soft and hard (getrlimit(2)).
    OpenFiles,
}

/// A setting that is to be another. The advice for people and the lines for `scripts/tune-host` are both made from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) kind: Kind,
    /// The key, or the file.
    pub(super) name: String,
    /// What it is.
    pub(super) now: String,
    /// What it is to be.
    pub(super) wanted: String,
}

/// Files in which settings outlive a restart of the machine. `scripts/tune-host` writes the same.
pub(super) const SYSCTL_FILE: &str = "/etc/sysctl.d/90-starling.conf";
pub(super) const TMPFILES_FILE: &str = "/etc/tmpfiles.d/90-starling.conf";
pub(super) const UNIT_FILE: &str = "/etc/systemd/system/starling.service.d/90-starling.conf";

impl Setting {
    /// A key of sysctl(8).
    pub(super) fn sysctl(key: &str, now: impl ToString, wanted: impl ToString) -> Self {
        let (now, wanted) = (now.to_string(), wanted.to_string());
        Setting { kind: Kind::Sysctl, name: key.to_owned(), now, wanted }
    }

    /// A file of sysfs(5).
    pub(super) fn file(path: impl Into<String>, now: impl ToString, wanted: &str) -> Self {
        Setting { kind: Kind::File, name: path.into(), now: now.to_string(), wanted: wanted.to_owned() }
    }

    /// The open-file limit of a process.
    pub(super) fn open_files(now: u64, wanted: u64) -> Self {
        Setting {
            kind: Kind::OpenFiles,
            name: "nofile".to_owned(),
            now: now.to_string(),
            wanted: wanted.to_string(),
        }
    }

    /// One line for programs, with tabs between: kind, name, what is, what is to be.
    pub(super) fn line(&self) -> String {
        let kind = match self.kind {
            Kind::Sysctl => "sysctl",
            Kind::File => "file",
            Kind::OpenFiles => "nofile",
        };
        format!("{kind}\t{}\t{}\t{}", self.name, self.now, self.wanted)
    }

    /// The command that makes it, until the machine is started again.
    pub(super) fn command(&self) -> String {
        let Setting { name, wanted, .. } = self;
        match self.kind {
            Kind::Sysctl if wanted.contains([' ', ',']) => format!("sysctl -w {name}='{wanted}'"),
            Kind::Sysctl => format!("sysctl -w {name}={wanted}"),
            Kind::File => format!("echo {wanted} > {name}"),
            Kind::OpenFiles => format!("prlimit --pid $$ --nofile={wanted}:{wanted}"),
        }
    }

    /// The command that keeps it for good.
    pub(super) fn keep(&self) -> String {
        let Setting { name, wanted, .. } = self;
        match self.kind {
            Kind::Sysctl => format!("echo '{name} = {wanted}' >> {SYSCTL_FILE}"),
            Kind::File => format!("echo 'w {name} - - - - {wanted}' >> {TMPFILES_FILE}"),
            Kind::OpenFiles => format!(
                "mkdir -p {} && printf '[Service]\\nLimitNOFILE={wanted}\\n' > {UNIT_FILE} && systemctl daemon-reload",
                UNIT_FILE.rsplit_once('/').map_or("", |(directory, _)| directory)
            ),
        }
    }
}

/// What a check has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) status: Status,
    /// A line.
    pub(super) text: String,
    /// Settings that change it.
    pub(super) settings: Vec<Setting>,
    /// Commands that change it where no setting does.
    pub(super) commands: Vec<String>,
}

impl Found {
    /// All is well.
    pub(super) fn ok(text: impl Into<String>) -> Self {
        Found { status: Status::Ok, text: text.into(), settings: Vec::new(), commands: Vec::new() }
    }

    /// Worth knowing.
    pub(super) fn note(text: impl Into<String>) -> Self {
        Found { status: Status::Note, ..Found::ok(text) }
    }

    /// To be changed.
    pub(super) fn warning(text: impl Into<String>) -> Self {
        Found { status: Status::Warning, ..Found::ok(text) }
    }

    /// With another status.
    pub(super) fn with(mut self, status: Status) -> Self {
        self.status = status;
        self
    }

    /// With a setting that changes it.
    pub(super) fn set(mut self, setting: Setting) -> Self {
        self.settings.push(setting);
        self
    }

    /// With a command that changes it.
    pub(super) fn run(mut self, command: impl Into<String>) -> Self {
        self.commands.push(command.into());
        self
    }
}

/// A check's answer, as it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) check: &'static str,
    pub(super) why: &'static str,
    pub(super) found: Found,
    /// Whether it could be looked at.
    pub(super) is_known: bool,
}

/// A finding for programs.
#[derive(Debug, Serialize)]
pub(super) struct Told<'a> {
    check: &'static str,
    status: Status,
    found: &'a str,
    why: &'static str,
    fix: Option<String>,
}

/// What an answer that could not be had begins with.
const NOT_KNOWN: &str = "not known here: ";

impl Finding {
    /// Of what a check has found, or why it could not look.
    pub(super) fn new(check: &'static str, why: &'static str, looked: Result<Found, String>) -> Self {
        let is_known = looked.is_ok();
        let found = looked.unwrap_or_else(|unknown| Found::note(format!("{NOT_KNOWN}{unknown}")));
        Finding { check, why, found, is_known }
    }

    /// The commands that change what was found, one a line each.
    pub(super) fn fixes(&self) -> Vec<String> {
        let settings = self.found.settings.iter().map(Setting::command);
        settings.chain(self.found.commands.iter().cloned()).collect()
    }

    /// The commands that keep the settings for good.
    pub(super) fn keeps(&self) -> Vec<String> {
        self.found.settings.iter().map(Setting::keep).collect()
    }

    /// For programs. `fix` has one command a line, first those that take effect at once; `null` where there is none.
    pub(super) fn told(&self) -> Told<'_> {
        let commands = [self.fixes(), self.keeps()].concat();
        Told {
            check: self.check,
            status: self.found.status,
            found: &self.found.text,
            why: self.why,
            fix: (!commands.is_empty()).then(|| commands.join("\n")),
        }
    }
}

/// Bytes for people.
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["bytes", "KiB", "MiB", "GiB"];
    let mut unit = 0;
    let mut left = bytes as f64;
    while left >= 1024.0 && unit + 1 < UNITS.len() {
        left /= 1024.0;
        unit += 1;
    }
    let text = if unit == 0 { bytes.to_string() } else { format!("{left:.1}") };
    format!("{} {}", text.strip_suffix(".0").unwrap_or(&text), UNITS[unit])
}
