//! Users' own types: declared by `managed!`, or answered by hand.

use std::sync::Mutex;

use mp_core::testing::Watchdog;
use mp_manager::{
    Address, Call, CallError, Client, Dict, Fault, List, Manager, Proxy, Referent, StartError,
    Value, managed,
};
use mp_process::Process;

mp_process::init_in_tests!();

managed! {
    /// Python's `FooBar`.
    pub trait FooBar => FooBarProxy {
        /// A text.
        fn f(&self) -> String;
        /// Always fails.
        fn g(&self) -> Result<(), String>;
        /// Not exposed in one of the types.
        fn h(&self) -> String;
        /// Several arguments, and nothing back.
        fn add(&self, left: u32, right: Option<String>);
        /// What was added.
        fn added(&self) -> Vec<String>;
        /// Panics.
        fn break_down(&self, why: String);
        /// A new object, which the server makes.
        fn squares(&self, count: u64) -> List<u64>;
        /// Takes proxies and gives one back.
        fn longest(&self, lists: Vec<List<u64>>) -> Option<List<u64>>;
        /// Another object of the same type.
        fn twin(&self) -> FooBarProxy;
    }
}

#[derive(Default)]
struct Foo {
    added: Mutex<Vec<String>>,
}

impl FooBar for Foo {
    fn f(&self) -> String {
        "f()".to_owned()
    }

    fn g(&self) -> Result<(), String> {
        Err("a value error".to_owned())
    }

    fn h(&self) -> String {
        "h()".to_owned()
    }

    fn add(&self, left: u32, right: Option<String>) {
        self.added.lock().unwrap().push(format!("{left} {right:?}"));
    }

    fn added(&self) -> Vec<String> {
        self.added.lock().unwrap().clone()
    }

    fn break_down(&self, why: String) {
        panic!("because of {why}");
    }

    fn squares(&self, count: u64) -> List<u64> {
        let here = Client::here().unwrap();
        here.list_from((0..count).map(|n| n * n)).unwrap()
    }

    fn longest(&self, lists: Vec<List<u64>>) -> Option<List<u64>> {
        lists.into_iter().max_by_key(|list| list.len().unwrap())
    }

    fn twin(&self) -> FooBarProxy {
        Client::here().unwrap().create(&()).unwrap()
    }
}

/// Is never done with its end.
struct Endless;

impl Referent for Endless {
    fn call(&self, call: &mut Call<'_>) -> Result<(), Fault> {
        Err(call.unknown())
    }
}

impl Drop for Endless {
    fn drop(&mut self) {
        loop {
            std::thread::park();
        }
    }
}

/// A type without a declaration: every method gives back its name and its argument.
struct Parrot;

impl Referent for Parrot {
    fn call(&self, call: &mut Call<'_>) -> Result<(), Fault> {
        match call.method() {
            "say" => {
                let (text,): (String,) = call.args()?;
                call.reply(&format!("say {text}"))
            }
            "refuse" => Err(Fault::Refused("no".to_owned())),
            "shout" => {
                let (len,): (usize,) = call.args()?;
                call.reply(&"A".repeat(len))
            }
            "client" => {
                let client = call.client();
                call.reply(&client)
            }
            _ => Err(call.unknown()),
        }
    }
}

fn start() -> (Watchdog, Manager) {
    let manager = Manager::builder()
        .setup(|registry| {
            FooBarProxy::register(registry, |()| Foo::default());
            registry.register("Parrot", |()| Parrot);
            registry.register("Endless", |()| Endless);
        })
        .setup(|registry| {
            registry.register("Some", |()| FooBarProxy::referent(Foo::default()));
            registry.expose("Some", &["f", "g"]);
        })
        .start()
        .unwrap();
    (Watchdog::secs(60), manager)
}

/// Conformance: _TestMyManager.test_mymanager
#[test]
fn all_methods_or_the_exposed_ones_can_be_called() {
    let (_dog, manager) = start();
    let foo: FooBarProxy = manager.create(&()).unwrap();
    assert_eq!(foo.f().unwrap(), "f()");
    assert_eq!(foo.g().unwrap(), Err("a value error".to_owned()));
    assert_eq!(foo.h().unwrap(), "h()");

    let some = manager.create_named("Some", &()).unwrap();
    assert_eq!(some.call::<_, String>("f", &()).unwrap(), "f()");
    let hidden = some.call::<_, String>("h", &());
    assert!(
        matches!(hidden, Err(CallError::Denied { .. })),
        "{hidden:?}"
    );
    let unknown = some.call::<_, String>("_h", &());
    assert!(unknown.is_err());

    let squares = foo.squares(10).unwrap();
    let walked: Vec<_> = squares.iter().map(Result::unwrap).collect();
    assert_eq!(walked, (0..10).map(|n| n * n).collect::<Vec<_>>());

    manager.shutdown().unwrap();
    let code = manager.exit_status().unwrap().exitcode().unwrap();
    assert!([0, -15].contains(&code), "{code}");
}

/// Conformance: _TestMyManager.test_mymanager_context_prestarted
#[test]
fn the_end_of_its_scope_shuts_a_manager_down() {
    let (_dog, manager) = start();
    let pid = manager.process().unwrap().pid();
    let foo: FooBarProxy = manager.create(&()).unwrap();
    {
        let manager = manager;
        assert_eq!(foo.f().unwrap(), "f()");
        assert!(manager.process().unwrap().is_alive());
        manager.shutdown().unwrap();
        assert_eq!(manager.exit_status().unwrap().exitcode(), Some(0));
    }
    assert!(matches!(foo.f(), Err(CallError::ServerDied { .. })));
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    let (_dog, manager) = start();
    let pid = manager.process().unwrap().pid();
    drop(manager);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}

/// The only connection of this client leads to a thread that will answer nothing more.
#[test]
fn a_server_that_does_not_answer_is_shut_down_all_the_same() {
    let (_dog, manager) = start();
    drop(manager.create_named("Endless", &()).unwrap());
    manager.shutdown().unwrap();
    assert_eq!(manager.exit_status().unwrap().exitcode(), Some(-15));
    // Nor does dropping it wait for an answer.
    let (_dog, manager) = start();
    drop(manager.create_named("Endless", &()).unwrap());
    drop(manager);
}

#[test]
fn arguments_and_results_are_checked() {
    let (_dog, manager) = start();
    let foo: FooBarProxy = manager.create(&()).unwrap();
    foo.add(7, Some("x".to_owned())).unwrap();
    foo.add(8, None).unwrap();
    assert_eq!(foo.added().unwrap(), ["7 Some(\"x\")", "8 None"]);

    let untyped = mp_manager::Managed::proxy(&foo);
    let refused = |result: Result<(), CallError>, what: &str| match result {
        Err(error) => assert!(error.to_string().contains(what), "{error}"),
        Ok(()) => panic!("{what} was accepted"),
    };
    refused(untyped.call("add", &()), "arguments");
    refused(untyped.call("add", &(7_u32,)), "arguments");
    refused(
        untyped.call("add", &(7_u32, None::<String>, 1_u8)),
        "arguments",
    );
    refused(untyped.call("nothing", &()), "method `nothing`");
    refused(
        untyped.call_checked("add", 1, &(7_u32, None::<String>)),
        "built with another",
    );
    untyped
        .call::<_, ()>("add", &(9_u32, None::<String>))
        .unwrap();
    assert_eq!(foo.added().unwrap().len(), 3);
    assert!(matches!(
        manager.create_named("Nothing", &()),
        Err(CallError::NotFound { what }) if what.contains("Nothing")
    ));
    assert!(manager.create_named("FooBar", &(1, 2)).is_err());
}

#[test]
fn a_panic_reaches_the_caller_and_the_object_lives_on() {
    let (_dog, manager) = start();
    let foo: FooBarProxy = manager.create(&()).unwrap();
    match foo.break_down("rain".to_owned()) {
        Err(CallError::Panicked { method, message }) => {
            assert_eq!(method, "FooBar.break_down");
            assert_eq!(message, "because of rain");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(foo.f().unwrap(), "f()");
}

#[test]
fn methods_take_and_give_proxies() {
    let (_dog, manager) = start();
    let foo: FooBarProxy = manager.create(&()).unwrap();
    let (short, long) = (foo.squares(2).unwrap(), foo.squares(5).unwrap());
    let longest = foo.longest(vec![short, long.clone()]).unwrap().unwrap();
    assert_eq!(longest, long);
    longest.push(7).unwrap();
    assert_eq!(long.len().unwrap(), 6);
    assert_eq!(foo.longest(Vec::new()).unwrap(), None);
    let twin = foo.twin().unwrap();
    assert_ne!(twin, foo);
    drop(foo);
    assert_eq!(twin.f().unwrap(), "f()");
    drop((twin, long, longest));
    assert_eq!(manager.number_of_objects().unwrap(), 0);
}

fn call_it(here: FooBarProxy, texts: Dict<String, FooBarProxy>) -> String {
    texts
        .insert("child".to_owned(), here.twin().unwrap())
        .unwrap();
    here.add(1, None).unwrap();
    here.f().unwrap()
}

#[test]
fn proxies_of_ones_own_travel_and_are_kept_like_any_other() {
    let (_dog, manager) = start();
    let foo: FooBarProxy = manager.create(&()).unwrap();
    let texts = manager.dict().unwrap();
    let child = Process::new(call_it, (foo.clone(), texts.clone()));
    assert_eq!(child.start().unwrap().join().unwrap(), "f()");
    assert_eq!(foo.added().unwrap().len(), 1);
    assert_eq!(texts.get("child").unwrap().unwrap().f().unwrap(), "f()");
}

#[test]
fn a_type_can_answer_by_hand() {
    let (_dog, manager) = start();
    let parrot: Proxy = manager.create_named("Parrot", &()).unwrap();
    assert_eq!(parrot.kind(), "Parrot");
    assert_eq!(parrot.call::<_, String>("say", &("hi",)).unwrap(), "say hi");
    assert!(parrot.call::<_, u64>("client", &()).unwrap() > 0);
    // An answer that is too long is told, and the connection lives on.
    let shout = parrot.call::<_, String>("shout", &(20_usize << 20,));
    assert!(
        matches!(shout, Err(CallError::TooLarge { .. })),
        "{shout:?}"
    );
    let shout = parrot.call::<_, String>("shout", &(2_usize << 20,));
    assert_eq!(shout.unwrap().len(), 2 << 20);
    assert!(matches!(
        parrot.call::<_, ()>("refuse", &()),
        Err(CallError::Refused { method, reason }) if method == "Parrot.refuse" && reason == "no"
    ));
}

/// Conformance: TestInitializers.test_manager_initializer
#[test]
fn the_initializer_runs_once_in_the_server_before_it_serves() {
    let _dog = Watchdog::secs(60);
    let manager = Manager::builder()
        .initializer(|here: &Client| {
            let pid = here.value(&std::process::id()).unwrap();
            here.share("pid", &pid).unwrap();
        })
        .start()
        .unwrap();
    // A second run would have found the name taken, and the start would have failed.
    let pid = manager.find::<Value<u32>>("pid").unwrap().get().unwrap();
    assert_eq!(pid, manager.process().unwrap().pid());
    assert_ne!(pid, std::process::id());
}

#[test]
fn an_initializer_that_panics_is_the_failure_of_the_start() {
    let _dog = Watchdog::secs(60);
    let failed = Manager::builder()
        .initializer(|_: &Client| panic!("a panic that this test wants"))
        .start();
    match failed {
        Err(StartError::Server(error)) => assert!(error.to_string().contains("this test wants")),
        other => panic!("{other:?}"),
    }
    let nowhere =
        Manager::builder().address("/nowhere/at/all".parse::<mp_manager::Address>().unwrap());
    assert!(matches!(nowhere.start(), Err(StartError::Listen(_))));
}

/// Processes whose parent this one is, zombies included.
fn children() -> String {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let children = tasks.map(|task| {
        let path = task.unwrap().path().join("children");
        std::fs::read_to_string(path).unwrap_or_default()
    });
    children.collect()
}

fn start_in_vain() -> (bool, String) {
    let failed = Manager::builder()
        .initializer(|here: &Client| {
            let Address::Unix(path) = here.address() else {
                panic!("by default a path");
            };
            std::fs::remove_file(path).unwrap();
        })
        .start();
    (matches!(failed, Err(StartError::Connect(_))), children())
}

#[test]
fn a_server_that_cannot_be_connected_to_is_ended() {
    let _dog = Watchdog::secs(60);
    let child = Process::new(start_in_vain, ()).start().unwrap();
    assert_eq!(child.join().unwrap(), (true, String::new()));
}
