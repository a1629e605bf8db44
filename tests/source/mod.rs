//! Enough of Rust's syntax to see what a file imports: words without comments and literals, and the paths that they
//! make. A full parser would tell no more here, and would be one more dependency to keep.

/// A word or a sign, and the line that it is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub text: String,
    pub line: usize,
}

/// A path that a file names, whole: `use a::{b, c::d}` is `a::b` and `a::c::d`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    pub segments: Vec<String>,
    pub line: usize,
}

impl Path {
    /// Whether it begins with `root`, or is so short that it names a parent of `root`: whoever imports `std::time` can
    /// name everything in it. A last segment of `root` may end in `*`.
    pub fn reaches(&self, root: &[&str]) -> bool {
        let fits = |(segment, wanted): (&String, &&str)| match wanted.strip_suffix('*') {
            Some(beginning) => segment.starts_with(beginning) || segment == "*",
            None => segment == wanted || segment == "*",
        };
        let is_parent = self.segments.len() < root.len();
        // A lone word is a name of the file's own, unless it is a crate's.
        (!is_parent || self.segments.len() > 1) && self.segments.iter().zip(root).all(fits)
    }
}

/// The words and signs of a source. `::` is one sign; literals and comments are left out.
pub fn tokens(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < chars.len() {
        let end = match chars[at] {
            c if c.is_whitespace() => at + 1,
            '/' if chars.get(at + 1) == Some(&'/') => find(&chars, at, |c| c == '\n'),
            '/' if chars.get(at + 1) == Some(&'*') => end_of_comment(&chars, at),
            '"' => end_of_string(&chars, at),
            '\'' => end_of_quote(&chars, at),
            c if c.is_alphanumeric() || c == '_' => {
                let end = find(&chars, at, |c| !(c.is_alphanumeric() || c == '_'));
                let word: String = chars[at..end].iter().collect();
                match (word.as_str(), raw_hashes(&chars, end)) {
                    ("r" | "br" | "cr", Some(hashes)) => end_of_raw_string(&chars, end, hashes),
                    _ => {
                        tokens.push(Token { text: word, line });
                        end
                    }
                }
            }
            ':' if chars.get(at + 1) == Some(&':') => {
                tokens.push(Token { text: "::".into(), line });
                at + 2
            }
            c => {
                tokens.push(Token { text: c.into(), line });
                at + 1
            }
        };
        let end = end.min(chars.len());
        line += chars[at..end].iter().filter(|c| **c == '\n').count();
        at = end;
    }
    tokens
}

/// The paths that a file names, those of its own crate as `crate::…` even where they are written with `super` or `self`.
/// `module` is where the file stands: `["shard", "queue"]`.
pub fn paths(source: &str, module: &[String]) -> Vec<Path> {
    let tokens = tokens(source);
    let mut module = module.to_vec();
    let mut opened = Vec::new(); // for each open brace, whether it is a module's
    let mut paths = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        match tokens[at].text.as_str() {
            "mod" if tokens.get(at + 2).is_some_and(|token| token.text == "{") => {
                module.push(tokens[at + 1].text.clone());
                opened.push(true);
                at += 3;
            }
            "{" => {
                opened.push(false);
                at += 1;
            }
            "}" => {
                if opened.pop() == Some(true) {
                    module.pop();
                }
                at += 1;
            }
            text if is_word(text) || text == "::" => {
                let begin = paths.len();
                let end = path_tree(&tokens, at, &[], &mut paths);
                paths[begin..].iter_mut().for_each(|path| resolve(path, &module));
                at = end.max(at + 1);
            }
            _ => at += 1,
        }
    }
    paths
}

/// The modules that a file declares without a body: files of their own.
pub fn declared_modules(source: &str) -> Vec<String> {
    let tokens = tokens(source);
    let is_declared = |window: &&[Token]| window[0].text == "mod" && window[2].text == ";";
    tokens.windows(3).filter(is_declared).map(|window| window[1].text.clone()).collect()
}

fn path_tree(tokens: &[Token], mut at: usize, prefix: &[String], paths: &mut Vec<Path>) -> usize {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    let mut segments = prefix.to_vec();
    if text(at) == "::" {
        at += 1;
    }
    let line = tokens.get(at).map_or(0, |token| token.line);
    loop {
        if is_word(text(at)) {
            segments.push(text(at).to_owned());
            at += 1;
            if text(at) != "::" {
                break;
            }
            at += 1;
        } else if text(at) == "{" {
            at += 1;
            while at < tokens.len() && text(at) != "}" {
                if is_word(text(at)) && text(at) != "as" {
                    at = path_tree(tokens, at, &segments, paths);
                    if text(at) == "as" {
                        at += 2;
                    }
                } else {
                    if text(at) == "*" {
                        paths.push(Path { segments: [&segments[..], &["*".into()]].concat(), line });
                    }
                    at += 1;
                }
            }
            return at + 1;
        } else {
            if text(at) == "*" && text(at.wrapping_sub(1)) == "::" {
                segments.push("*".into());
                at += 1;
            }
            break;
        }
    }
    paths.push(Path { segments, line });
    at
}

fn resolve(path: &mut Path, module: &[String]) {
    let climbed = path.segments.iter().take_while(|segment| *segment == "super").count();
    let is_self = path.segments.first().is_some_and(|segment| segment == "self");
    if climbed > 0 || (is_self && path.segments.len() > 1) {
        let rest = path.segments.split_off(climbed.max(usize::from(is_self)));
        path.segments = vec!["crate".to_owned()];
        path.segments.extend_from_slice(&module[..module.len().saturating_sub(climbed)]);
        path.segments.extend(rest);
    }
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

fn find(chars: &[char], from: usize, is_end: impl Fn(char) -> bool) -> usize {
    chars[from..].iter().position(|c| is_end(*c)).map_or(chars.len(), |length| from + length)
}

fn end_of_comment(chars: &[char], begin: usize) -> usize {
    let (mut at, mut depth) = (begin, 0);
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (at, depth) = (at + 2, depth + 1),
            ('*', Some('/')) => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn end_of_string(chars: &[char], begin: usize) -> usize {
    let mut at = begin + 1;
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

/// A character literal, or a lifetime, which has no second quote.
fn end_of_quote(chars: &[char], begin: usize) -> usize {
    if chars.get(begin + 1) == Some(&'\\') {
        return find(chars, begin + 3, |c| c == '\'') + 1;
    }
    if chars.get(begin + 2) == Some(&'\'') { begin + 3 } else { begin + 1 }
}

fn raw_hashes(chars: &[char], at: usize) -> Option<usize> {
    let hashes = chars[at..].iter().take_while(|c| **c == '#').count();
    (chars.get(at + hashes) == Some(&'"')).then_some(hashes)
}

fn end_of_raw_string(chars: &[char], at: usize, hashes: usize) -> usize {
    let end: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    let body = at + hashes + 1;
    chars[body..]
        .windows(end.len())
        .position(|window| window == end)
        .map_or(chars.len(), |length| body + length + end.len())
}
