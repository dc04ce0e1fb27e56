// A real Neo4j server in this process, for tests: `Serve HOME PORT PASSWORD`. It keeps its data in HOME, so that it can be killed and
// started again, listens on the loopback port (0: a free one), prints its address and serves until its standard input ends.

import java.net.InetAddress;
import java.net.ServerSocket;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Map;
import org.neo4j.configuration.GraphDatabaseSettings;
import org.neo4j.configuration.connectors.BoltConnector;
import org.neo4j.configuration.connectors.HttpConnector;
import org.neo4j.configuration.helpers.SocketAddress;
import org.neo4j.dbms.api.DatabaseManagementService;
import org.neo4j.dbms.api.DatabaseManagementServiceBuilder;
import org.neo4j.graphdb.GraphDatabaseService;
import org.neo4j.graphdb.Result;

public class Serve {
    public static void main(String[] arguments) {
        try {
            serve(arguments);
            System.exit(0);
        } catch (Throwable failure) {
            // What the server has started would keep the process.
            failure.printStackTrace();
            System.exit(1);
        }
    }

    private static void serve(String[] arguments) throws Exception {
        Path home = Path.of(arguments[0]).toAbsolutePath().normalize();
        int port = Integer.parseInt(arguments[1]);
        if (port == 0) {
            try (ServerSocket free = new ServerSocket(0, 1, InetAddress.getLoopbackAddress())) {
                port = free.getLocalPort();
            }
        }
        DatabaseManagementService server = new DatabaseManagementServiceBuilder(home)
                .setConfig(BoltConnector.enabled, true)
                .setConfig(BoltConnector.listen_address, new SocketAddress("127.0.0.1", port))
                .setConfig(BoltConnector.advertised_address, new SocketAddress("127.0.0.1", port))
                .setConfig(HttpConnector.enabled, false)
                .setConfig(GraphDatabaseSettings.auth_enabled, true)
                // The tests send wrong passwords on purpose.
                .setConfig(GraphDatabaseSettings.auth_max_failed_attempts, 0)
                .setConfig(GraphDatabaseSettings.pagecache_memory, 256L * 1024 * 1024)
                .build();
        Runtime.getRuntime().addShutdownHook(new Thread(server::shutdown));
        GraphDatabaseService system = server.database("system");
        // A server that is started again has its password, and does not take it twice.
        String isNew = "SHOW USERS YIELD user, passwordChangeRequired WHERE user = 'neo4j' AND passwordChangeRequired";
        if (system.executeTransactionally(isNew, Map.of(), Result::hasNext)) {
            String change = "ALTER USER neo4j SET PASSWORD $password CHANGE NOT REQUIRED";
            system.executeTransactionally(change, Map.of("password", arguments[2]));
        }
        if (!server.database("neo4j").isAvailable(Duration.ofSeconds(60).toMillis())) {
            throw new IllegalStateException("the database did not become available");
        }
        System.out.println("bolt://127.0.0.1:" + port);
        System.out.flush();
        while (System.in.read() >= 0) {
            // It serves.
        }
    }
}
