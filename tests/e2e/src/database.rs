//! Postgres in a container of its own, on a port that stays the same when the container is restarted.

use std::time::Duration;

use bollard::Docker;
use bollard::models::PortBinding;
use bollard::query_parameters::RestartContainerOptionsBuilder;
use testcontainers::core::{IntoContainerPort, WaitFor};
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerAsync, GenericImage, ImageExt};

use crate::settings;

/// A running Postgres.
pub struct Database {
    container: ContainerAsync<GenericImage>,
    port: u16,
}

impl Database {
    /// Starts one, and returns once it takes connections.
    ///
    /// # Panics
    /// If the image is absent or Postgres does not start within a minute.
    pub async fn start(label: &str) -> Self {
        let image = settings::postgres_image();
        let (name, tag) = image.rsplit_once(':').unwrap_or((&image, "latest"));
        let port = settings::free_port();
        let bindings =
            vec![PortBinding { host_ip: Some("127.0.0.1".to_owned()), host_port: Some(port.to_string()) }];
        let container = GenericImage::new(name, tag)
            .with_exposed_port(5432.tcp())
            .with_wait_for(WaitFor::message_on_stderr("database system is ready to accept connections"))
            .with_startup_timeout(Duration::from_secs(60))
            .with_env_var("POSTGRES_TRUST", "1")
            .with_env_var("POSTGRES_USER", "orca")
            .with_label("orca.e2e", label)
            .with_host_config_modifier(move |host| {
                host.publish_all_ports = Some(false);
                host.port_bindings = Some([("5432/tcp".to_owned(), Some(bindings.clone()))].into());
            })
            .start()
            .await
            .unwrap_or_else(|error| {
                panic!(
                    "Postgres does not start from {image}: {error}; the image is built from compose/postgres \
                     (`cargo xtask test` does that)"
                )
            });
        Self { container, port }
    }

    /// What goes into `DATABASE_URL`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres://orca@127.0.0.1:{}/orca", self.port)
    }

    /// The container's id.
    #[must_use]
    pub fn container(&self) -> &str {
        self.container.id()
    }

    /// Restarts it: a fast shutdown, then a start. Returns once the engine has started it again.
    ///
    /// # Panics
    /// If the engine cannot.
    pub async fn restart(&self, docker: &Docker) {
        let options = RestartContainerOptionsBuilder::new().t(10).build();
        docker.restart_container(self.container(), Some(options)).await.expect("Postgres restarts");
    }

    /// Removes it.
    ///
    /// # Panics
    /// If the engine cannot.
    pub async fn remove(self) {
        self.container.rm().await.expect("the container of Postgres is removed");
    }
}
