"""One login for both clients: the transport of `kubernetes.aio` and kopf's watch streams.

kopf's own service-account login calls the API server by its DNS name; this one uses the address that the kubelet puts
into the environment, so that the operator does not wait for cluster DNS.
"""

from __future__ import annotations

import datetime

import aiohttp
import kopf
import yaml
from kubernetes.aio import config
from kubernetes.aio.client import Configuration
from kubernetes.aio.config import ConfigException

TOKEN_LIFETIME = datetime.timedelta(minutes=10)
"""The kubelet renews the token file well before a token expires; kopf logs in anew this often to pick it up."""


class NoLogin(Exception):
    """There is no usable kubeconfig or service account; the text says why."""


async def load_configuration(kubeconfig: str | None) -> Configuration:
    """Where the API server is and who we are: from the kubeconfig if one is given, else from the service account.

    Raises NoLogin.
    """
    try:
        return await _load(kubeconfig)
    except (ConfigException, yaml.YAMLError, OSError, LookupError, TypeError, ValueError) as error:
        # The library checks little of a kubeconfig: an empty one is a TypeError there.
        where = f"kubeconfig {kubeconfig}" if kubeconfig else "service account of the pod"
        raise NoLogin(f"{where}: {' '.join(str(error).split())}") from error


async def _load(kubeconfig: str | None) -> Configuration:
    configuration = Configuration()
    # The API server is never reached through a proxy of the environment; a kubeconfig may still name one.
    configuration.client_session_kwargs = {"trust_env": False, "middlewares": (refuse_redirects,)}
    if kubeconfig:
        await config.load_kube_config(config_file=kubeconfig, client_configuration=configuration)
    else:
        config.load_incluster_config(client_configuration=configuration)
    return configuration


async def refuse_redirects(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """An API server redirects nobody; a pod that is asked through it might, to wherever it likes."""
    response = await handler(request)
    if response.status in (301, 302, 303, 307, 308):
        response.close()
        raise aiohttp.ClientPayloadError(f"refused to be redirected by {request.url.path}")
    return response


async def connection_info(configuration: Configuration) -> kopf.ConnectionInfo:
    """The same for kopf, with the token as it is now."""
    bearer = await configuration.get_api_key_with_prefix("BearerToken")
    scheme, _, token = bearer.partition(" ") if bearer else ("", "", "")
    expiration = datetime.datetime.now(datetime.UTC) + TOKEN_LIFETIME if bearer else None
    return kopf.ConnectionInfo(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        insecure=not configuration.verify_ssl,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
        scheme=scheme.capitalize() or None,
        token=token.strip() or None,
        expiration=expiration,
    )
