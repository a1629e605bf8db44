//! Server reflection: tells a client which services there are and how their messages are laid out, so that tools can call them
//! without a schema of their own. The messages of v1 and v1alpha are the same; only the names of the services differ.

use std::collections::HashMap;
use std::sync::LazyLock;

use prost::Message;
use prost_types::{DescriptorProto, FileDescriptorProto, FileDescriptorSet};

use super::Code;

/// The schema, as Rust.
#[allow(missing_docs, clippy::all, clippy::pedantic, rustdoc::all)]
mod schema {
    include!(concat!(env!("OUT_DIR"), "/grpc.reflection.v1.rs"));
}

use schema::server_reflection_request::MessageRequest;
use schema::server_reflection_response::MessageResponse;
use schema::{
    ErrorResponse, ExtensionNumberResponse, FileDescriptorResponse, ListServiceResponse,
    ServerReflectionRequest, ServerReflectionResponse, ServiceResponse,
};

/// What can be asked for.
struct Index {
    /// Each file as bytes, and the names of those that it imports.
    files: Vec<(Vec<u8>, Vec<String>)>,
    by_name: HashMap<String, usize>,
    by_symbol: HashMap<String, usize>,
    messages: Vec<String>,
    services: Vec<String>,
}

static INDEX: LazyLock<Index> = LazyLock::new(|| {
    let bytes = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
    let set = FileDescriptorSet::decode(&bytes[..]).expect("written when the server was built");
    Index::new(&set.file)
});

impl Index {
    fn new(files: &[FileDescriptorProto]) -> Index {
        let mut index = Index {
            files: Vec::new(),
            by_name: HashMap::new(),
            by_symbol: HashMap::new(),
            messages: Vec::new(),
            services: Vec::new(),
        };
        for (number, file) in files.iter().enumerate() {
            index.files.push((file.encode_to_vec(), file.dependency.clone()));
            index.by_name.insert(file.name().to_owned(), number);
            let package = file.package();
            for message in &file.message_type {
                index.add_message(package, message, number);
            }
            for symbol in &file.enum_type {
                index.by_symbol.insert(format!("{package}.{}", symbol.name()), number);
            }
            for service in &file.service {
                let name = format!("{package}.{}", service.name());
                for method in &service.method {
                    index.by_symbol.insert(format!("{name}.{}", method.name()), number);
                }
                index.by_symbol.insert(name.clone(), number);
                index.services.push(name);
            }
        }
        index
    }

    fn add_message(&mut self, scope: &str, message: &DescriptorProto, number: usize) {
        let name = format!("{scope}.{}", message.name());
        for field in &message.field {
            self.by_symbol.insert(format!("{name}.{}", field.name()), number);
        }
        for symbol in &message.enum_type {
            self.by_symbol.insert(format!("{name}.{}", symbol.name()), number);
        }
        for nested in &message.nested_type {
            self.add_message(&name, nested, number);
        }
        self.by_symbol.insert(name.clone(), number);
        self.messages.push(name);
    }

    /// A file, and behind it those that it needs.
    fn file(&self, number: usize) -> MessageResponse {
        let mut numbers = vec![number];
        let mut at = 0;
        while let Some(number) = numbers.get(at) {
            let needed = self.files[*number].1.iter().filter_map(|name| self.by_name.get(name));
            let fresh: Vec<usize> = needed.copied().filter(|number| !numbers.contains(number)).collect();
            numbers.extend(fresh);
            at += 1;
        }
        let file_descriptor_proto = numbers.iter().map(|number| self.files[*number].0.clone()).collect();
        MessageResponse::FileDescriptorResponse(FileDescriptorResponse { file_descriptor_proto })
    }

    fn answer(&self, request: &MessageRequest) -> MessageResponse {
        let found = |number: Option<&usize>, what: &str| match number {
            Some(number) => self.file(*number),
            None => not_found(what),
        };
        match request {
            MessageRequest::FileByFilename(name) => found(self.by_name.get(name), name),
            MessageRequest::FileContainingSymbol(symbol) => found(self.by_symbol.get(symbol), symbol),
            MessageRequest::FileContainingExtension(extension) => not_found(&extension.containing_type),
            MessageRequest::AllExtensionNumbersOfType(name) if self.messages.contains(name) => {
                let response =
                    ExtensionNumberResponse { base_type_name: name.clone(), extension_number: Vec::new() };
                MessageResponse::AllExtensionNumbersResponse(response)
            }
            MessageRequest::AllExtensionNumbersOfType(name) => not_found(name),
            MessageRequest::ListServices(_) => {
                let service = self.services.iter().map(|name| ServiceResponse { name: name.clone() });
                MessageResponse::ListServicesResponse(ListServiceResponse { service: service.collect() })
            }
        }
    }
}

fn not_found(what: &str) -> MessageResponse {
    let error_message = format!("there is no {what} here");
    MessageResponse::ErrorResponse(ErrorResponse { error_code: Code::NotFound as i32, error_message })
}

/// Reads a request and appends the response to it.
///
/// # Errors
/// What is wrong with the request, for people.
pub fn answer(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    let request = ServerReflectionRequest::decode(bytes).map_err(|error| error.to_string())?;
    let asked = request.message_request.as_ref().ok_or("a request asks for something")?;
    let response = ServerReflectionResponse {
        valid_host: request.host.clone(),
        message_response: Some(INDEX.answer(asked)),
        original_request: Some(request),
    };
    response.encode(out).expect("a vector takes every byte");
    Ok(())
}

/// The names of the services.
pub fn services() -> impl Iterator<Item = &'static str> {
    INDEX.services.iter().map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(request: MessageRequest) -> MessageResponse {
        let request = ServerReflectionRequest { host: "h".into(), message_request: Some(request) };
        let mut out = Vec::new();
        answer(&request.encode_to_vec(), &mut out).unwrap();
        let response = ServerReflectionResponse::decode(&out[..]).unwrap();
        assert_eq!((response.valid_host.as_str(), response.original_request), ("h", Some(request)));
        response.message_response.unwrap()
    }

    #[test]
    fn every_service_and_message_is_found() {
        let MessageResponse::ListServicesResponse(list) = asked(MessageRequest::ListServices(String::new()))
        else {
            panic!("no list")
        };
        let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
        let expected = [
            "chat.ChatService",
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
        ];
        assert_eq!(names, expected);
        assert!(services().eq(expected));
        for symbol in names.into_iter().chain(["chat.Event", "chat.Message.user_id", "chat.Role"]) {
            let MessageResponse::FileDescriptorResponse(response) =
                asked(MessageRequest::FileContainingSymbol(symbol.into()))
            else {
                panic!("{symbol} is not found")
            };
            let file = FileDescriptorProto::decode(&response.file_descriptor_proto[0][..]).unwrap();
            assert!(symbol.starts_with(file.package()), "{symbol}");
        }
    }

    #[test]
    fn a_file_comes_with_those_it_needs_each_once() {
        let file = |name: &str, needed: &[&str]| FileDescriptorProto {
            name: Some(name.to_owned()),
            dependency: needed.iter().map(|&name| name.to_owned()).collect(),
            ..FileDescriptorProto::default()
        };
        let files =
            [file("other", &[]), file("a", &["b", "c", "built in"]), file("b", &["c"]), file("c", &[])];
        let MessageResponse::FileDescriptorResponse(response) = Index::new(&files).file(1) else {
            panic!("no files")
        };
        let came = response.file_descriptor_proto.iter();
        let came: Vec<_> = came.map(|bytes| FileDescriptorProto::decode(&bytes[..]).unwrap()).collect();
        assert_eq!(came, files[1..]);
    }

    #[test]
    fn a_message_that_is_there_has_no_extensions() {
        let MessageResponse::AllExtensionNumbersResponse(response) =
            asked(MessageRequest::AllExtensionNumbersOfType("chat.Event".into()))
        else {
            panic!("it is not found")
        };
        assert_eq!((response.base_type_name.as_str(), response.extension_number), ("chat.Event", vec![]));
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        for request in [
            MessageRequest::FileByFilename("nowhere.proto".into()),
            MessageRequest::FileContainingSymbol("chat.Nothing".into()),
            MessageRequest::AllExtensionNumbersOfType("chat.Nothing".into()),
        ] {
            assert!(matches!(asked(request), MessageResponse::ErrorResponse(e) if e.error_code == 5));
        }
        let none = ServerReflectionRequest { host: String::new(), message_request: None };
        assert!(answer(&none.encode_to_vec(), &mut Vec::new()).is_err());
        assert!(answer(&[0xFF], &mut Vec::new()).is_err());
    }
}
