from tests.clients import Service


async def test_a_peer_is_told_who_is_there(service: Service) -> None:
    async with service.connect("/ws/r") as ann, service.connect("/ws/r") as bob:
        await ann.expect("auth_required")
        await ann.send("auth_token", token="t", username="ann")
        await ann.expect("auth_success", user="ann")
        await ann.expect("users_in_room", users=[])
        await ann.expect_nothing()
        await bob.expect("auth_required")
        await bob.send("auth_token", token="t", username="bob")
        await bob.expect("auth_success", user="bob")
        await ann.expect("user_joined", username="bob", connected_users=2)
        await bob.close()
        await ann.expect("user_left", username="bob", connected_users=1)
