//! Arguments in, exit code out.
fn main() -> std::process::ExitCode {
    starling::cli::run()
}
